"""Many cases as numbers: what became of each, and means with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.errors import MedsegError
from medseg.metrics import METRICS, Metric
from medseg.report.evaluation import Report, Row, mean_defined
from medseg.report.measuring import Measuring
from medseg.study import Finding

RESAMPLES = 2000
LEVEL = 0.95


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


def confidence(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval of the mean by bootstrap over cases; None for fewer than two values that are defined."""
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(0).integers(0, len(known), (RESAMPLES, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return significant(float(low)), significant(float(high))


def significant(value: float) -> float:
    """Ten significant digits; what is not finite as it is."""
    return value if not math.isfinite(value) else float(f"{value:.10g}")
