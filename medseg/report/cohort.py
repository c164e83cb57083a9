"""Many cases as numbers: means, confidence intervals, comparison with a second prediction, and the files of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medseg.errors import MedsegError
from medseg.metrics import METRICS, Metric
from medseg.report.evaluation import Report, Row, mean_defined, or_none
from medseg.report.measuring import Measuring
from medseg.study import Finding

_RESAMPLES = 2000
_LEVEL = 0.95
_TESTED = ("dice", "hausdorff95_mm", "surface_dice")  # what two predictions are compared by
_NNUNET = {"dice": "Dice", "iou": "IoU"}


@dataclass(frozen=True)
class CaseResult:
    """What became of a case.

    Attributes:
        name: For people; without what could identify a patient.
        report: Its numbers; None if it failed.
        second: The numbers of the second prediction, if there is one.
        problem: Why it failed.
        reference: Name of the reference's file, as `name` is.
        prediction: Name of the prediction's file.
    """

    name: str
    report: Report | None = None
    second: Report | None = None
    problem: MedsegError | None = None
    reference: str = ""
    prediction: str = ""

    @property
    def error(self) -> str | None:
        """Why it failed, in a line."""
        return None if self.problem is None else " ".join(str(self.problem).split())


@dataclass(frozen=True)
class Cohort:
    """The cases of an evaluation.

    Attributes:
        cases: In the order of their names.
        measuring: What was measured.
        missing: Names of references without a prediction.
        surplus: Names of predictions without a reference.
        findings: Doubts about the whole.
    """

    cases: tuple[CaseResult, ...]
    measuring: Measuring
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def done(self) -> tuple[tuple[str, Report], ...]:
        """Names and numbers of the cases that could be compared."""
        return tuple((case.name, case.report) for case in self.cases if case.report is not None)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What was measured of each label."""
        wanted = {name for _, report in self.done for row in report.rows for name in row.values}
        return tuple(metric for metric in METRICS if metric.name in wanted)

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Label numbers by name, over all cases."""
        return {row.name: row.labels for _, report in self.done for row in report.rows}

    def rows(self, label: str) -> list[tuple[str, Row]]:
        """A label's rows with the names of their cases."""
        return [(name, row) for name, report in self.done for row in report.rows if row.name == label]

    def values(self, label: str, metric: str) -> list[float]:
        """A metric of a label over the cases that list it; NaN where it is undefined."""
        return [row.values[metric] for _, row in self.rows(label)]

    def mean_over_labels(self, metric: str) -> float:
        """Mean over the labels of the means over the cases."""
        return mean_defined([mean_defined(self.values(label, metric)) for label in self.labels])


def summary(cohort: Cohort) -> dict[str, Any]:
    """What summary.json holds: nnU-Net's layout, with units, conventions, intervals and counts added."""
    means = {_key(labels): _mean_of(cohort, name) for name, labels in cohort.labels.items()}
    keys = list(next(iter(means.values()), {}))
    comparison = paired(cohort)
    return {
        "foreground_mean": {key: _rounded(mean_defined([_nan(mean[key]) for mean in means.values()])) for key in keys},
        "mean": means,
        "metric_per_case": [
            {
                "case": case.name,
                "metrics": {_key(row.labels): _of_row(row) for row in case.report.rows},
                "case_metrics": {name: or_none(value) for name, value in case.report.case.items()},
                "findings": [str(finding) for finding in case.report.findings],
                "reference_file": case.reference,
                "prediction_file": case.prediction,
            }
            for case in cohort.cases
            if case.report is not None
        ],
        "labels": {_key(labels): name for name, labels in cohort.labels.items()},
        "units": {_NNUNET.get(metric.name, metric.name): metric.unit for metric in cohort.metrics},
        "conventions": {
            **{_NNUNET.get(metric.name, metric.name): metric.about for metric in cohort.metrics},
            "tolerance_mm": cohort.measuring.tolerance_mm,
            "ignored_label": cohort.measuring.ignore,
            "undefined": "null: left out of means, and counted under absent_in_*",
            "confidence": f"bootstrap over cases, percentile, {_LEVEL:.0%}, {_RESAMPLES} resamples, fixed seed",
        },
        "confidence_intervals": {
            _key(labels): {
                metric.name: interval
                for metric in cohort.metrics
                if (interval := confidence(cohort.values(name, metric.name))) is not None
            }
            for name, labels in cohort.labels.items()
        },
        "absent": {_key(labels): _absent(cohort, name) for name, labels in cohort.labels.items()},
        "failed": [{"case": case.name, "error": case.error} for case in cohort.cases if case.error is not None],
        "missing_predictions": list(cohort.missing),
        "surplus_predictions": list(cohort.surplus),
        "paired_comparison": comparison,
        "findings": [str(finding) for finding in cohort.findings],
    }


def metrics_csv(cohort: Cohort) -> str:
    """One line a value: case, label, metric, value, unit; no value where the metric is undefined."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("case", "label", "metric", "value", "unit"))
    units = {metric.name: metric.unit for metric in METRICS}
    for name, report in cohort.done:
        for row in report.rows:
            for metric, value in row.values.items():
                lines.writerow((_cell(name), _cell(row.name), metric, _written(value), units[metric]))
        for metric, value in report.case.items():
            lines.writerow((_cell(name), "", metric, _written(value), units[metric]))
    return text.getvalue()


def confidence(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval of the mean by bootstrap over cases; None for fewer than two values that are defined."""
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(0).integers(0, len(known), (_RESAMPLES, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), (50 * (1 - _LEVEL), 50 * (1 + _LEVEL)))
    return _significant(float(low)), _significant(float(high))


def paired(cohort: Cohort) -> list[dict[str, Any]]:
    """The second prediction less the first, case by case: Wilcoxon's signed-rank test, p corrected after Holm."""
    tests = [
        _test(label, metric.name, pairs)
        for label in cohort.labels
        for metric in METRICS
        if metric.name in _TESTED and (pairs := list(_pairs(cohort, label, metric.name)))
    ]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return tests


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _pairs(cohort: Cohort, label: str, metric: str) -> Iterator[tuple[float, float]]:
    for case in cohort.cases:
        if case.report is None or case.second is None:
            continue
        both = [
            row.values[metric]
            for report in (case.report, case.second)
            for row in report.rows
            if row.name == label and metric in row.values
        ]
        if len(both) == 2 and all(map(math.isfinite, both)):
            yield both[0], both[1]


def _test(label: str, metric: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    from scipy.stats import wilcoxon  # noqa: PLC0415 - takes a second to load

    differences = np.array([second - first for first, second in pairs])
    # Without a difference there is nothing to rank.
    p = float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    return {
        "label": label,
        "metric": metric,
        "cases": len(pairs),
        "mean_first": _significant(float(np.mean([first for first, _ in pairs]))),
        "mean_second": _significant(float(np.mean([second for _, second in pairs]))),
        "median_difference": _significant(float(np.median(differences))),
        "p": p,
    }


def _mean_of(cohort: Cohort, label: str) -> dict[str, float | None]:
    rows = [_of_row(row) for _, row in cohort.rows(label)]
    return {key: _rounded(mean_defined([_nan(row[key]) for row in rows])) for key in rows[0]}


def _of_row(row: Row) -> dict[str, float | None]:
    reference, prediction, shared = row.reference_voxels, row.prediction_voxels, row.shared_voxels
    return {
        **{_NNUNET.get(name, name): or_none(value) for name, value in row.values.items()},
        "TP": shared,
        "FP": prediction - shared,
        "FN": reference - shared,
        "TN": row.voxels - reference - prediction + shared,
        "n_pred": prediction,
        "n_ref": reference,
    }


def _absent(cohort: Cohort, label: str) -> Mapping[str, int]:
    rows = [row for _, row in cohort.rows(label)]
    return {
        "cases": len(rows),
        "absent_in_both": sum(row.absent_in_both for row in rows),
        "absent_in_reference": sum(row.reference_voxels == 0 < row.prediction_voxels for row in rows),
        "absent_in_prediction": sum(row.prediction_voxels == 0 < row.reference_voxels for row in rows),
    }


def _key(labels: tuple[int, ...]) -> str:
    """As nnU-Net writes a label, or a region of several."""
    return str(labels[0]) if len(labels) == 1 else str(labels)


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _written(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.10g}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _rounded(value: float) -> float | None:
    return or_none(_significant(value))


def _significant(value: float) -> float:
    return value if not math.isfinite(value) else float(f"{value:.10g}")
