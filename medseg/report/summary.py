"""What an evaluation writes for programs: summary.json as nnU-Net has it, and a table of one value a line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from medseg.metrics import METRICS
from medseg.report.cohort import LEVEL, RESAMPLES, Cohort, confidence, significant
from medseg.report.evaluation import Report, Row, mean_defined, or_none
from medseg.report.paired import paired

_NNUNET = {"dice": "Dice", "iou": "IoU"}


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
            "slices": _slices(cohort),
            "undefined": "null: left out of means, and counted under absent_in_*",
            "confidence": f"bootstrap over cases, percentile, {LEVEL:.0%}, {RESAMPLES} resamples, fixed seed",
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


def _slices(cohort: Cohort) -> str | None:
    plane = cohort.measuring.per_slice
    if plane is None:
        return None
    return (
        f"{plane}: every slice for itself; a case's value is the mean over the slices that have the label, "
        "volumes are of the whole"
    )


def metrics_csv(cohort: Cohort) -> str:
    """One line a value: case, label, metric, value, unit; no value where the metric is undefined.

    Where slices were measured each for itself, a column more has the slice's index along the reference's axis, from 0;
    lines without one are of the whole case.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    by_slice = cohort.measuring.per_slice is not None
    lines.writerow(("case", *(["slice"] if by_slice else []), "label", "metric", "value", "unit"))
    units = {metric.name: metric.unit for metric in METRICS}
    for name, report in cohort.done:
        for place, label, metric, value in _values(report):
            where = [place] if by_slice else []
            lines.writerow((_cell(name), *where, _cell(label), metric, _written(value), units[metric]))
    return text.getvalue()


def _values(report: Report) -> Iterator[tuple[int | str, str, str, float]]:
    """(slice, label, metric, value): of the case, and then of its slices that have the label."""
    for row in report.rows:
        for metric, value in row.values.items():
            yield "", row.name, metric, value
    for metric, value in report.case.items():
        yield "", "", metric, value
    if report.slices is None:
        return
    for place, used in enumerate(report.slices.used):
        for metric, values in report.slices.values.items():
            if metric in report.case:
                yield place, "", metric, float(values[place, 0])
                continue
            for number in np.flatnonzero(used):
                yield place, report.rows[number].name, metric, float(values[place, number])


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
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text


def _written(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.10g}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _rounded(value: float) -> float | None:
    return or_none(significant(value))
