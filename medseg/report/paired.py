"""Two predictions of the same cases, compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medseg.metrics import METRICS
from medseg.report.cohort import Cohort, significant

_TESTED = ("dice", "hausdorff95_mm", "surface_dice")  # what two predictions are compared by


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
        "mean_first": significant(float(np.mean([first for first, _ in pairs]))),
        "mean_second": significant(float(np.mean([second for _, second in pairs]))),
        "median_difference": significant(float(np.median(differences))),
        "p": p,
    }
