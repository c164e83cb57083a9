"""The report of an evaluation: one HTML file that needs nothing else, on a screen, a phone or paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from medseg.metrics import METRICS, Metric
from medseg.report.cases import Pictures, case_table, worst_cases
from medseg.report.cohort import Cohort, confidence
from medseg.report.document import Cell, Section, counted, document, measured, number, row, table, tiles
from medseg.report.evaluation import mean_defined
from medseg.report.figures import bland_altman, box_plot
from medseg.report.paired import paired
from medseg.report.viewer import ViewerCase, viewer_html

_METRICS = {metric.name: metric for metric in METRICS}
_OF_LABEL = ("dice", "iou", "surface_dice", "hausdorff95_mm", "assd_mm", "lesion_f1", "difference_ml")
_PLOTTED = ("dice", "surface_dice", "hausdorff95_mm")
_SIGNIFICANT = 0.05


def evaluation_page(
    cohort: Cohort, *, title: str, pictures: Mapping[str, Pictures] = {}, viewers: Sequence[ViewerCase] = ()
) -> str:
    """The report of an evaluation.

    Args:
        cohort: What was measured.
        title: The heading.
        pictures: Of the worst cases, by name.
        viewers: What the viewer offers, the worst case first.
    """
    sections = (
        Section("problems", "Look at these first", _problems(cohort)),
        Section("labels", "Labels", _labels(cohort)),
        Section("comparison", "Second prediction", _comparison(cohort)),
        Section("plots", "Plots", _plots(cohort)),
        Section("cases", "Cases", case_table(cohort)),
        Section("worst", "Cases, the worst first", worst_cases(cohort, pictures)),
        Section("viewer", "Viewer", viewer_html(viewers)),
        Section("conventions", "What the numbers mean", _conventions(cohort)),
    )
    return document(title, _lead(cohort), sections)


def _lead(cohort: Cohort) -> str:
    failed, missing = len(cohort.cases) - len(cohort.done), len(cohort.missing)
    troubles = [f"{failed} failed"] if failed else []
    troubles += [f"{missing} without prediction"] if missing else []
    cases = (f"{len(cohort.done)} of {len(cohort.cases) + missing}", ", ".join(troubles) or "compared")
    entries = [("Cases", *cases), ("Labels", str(len(cohort.labels)), "")]
    for name in ("dice", "hausdorff95_mm", "surface_dice"):
        metric = _METRICS[name]
        if metric in cohort.metrics:
            means = [report.mean(name) for _, report in cohort.done]
            unit = "" if metric.unit == "1" else f" {metric.unit}"
            figure = f"{number(cohort.mean_over_labels(name), metric.unit)}{unit}"
            entries.append((f"Mean {metric.short or metric.title}", figure, _interval(means, metric.unit)))
    return tiles(entries)


def _interval(values: Sequence[float], unit: str) -> str:
    interval = confidence(values)
    return f"95 % CI {number(interval[0], unit)} to {number(interval[1], unit)}" if interval else ""


def _problems(cohort: Cohort) -> str:
    lines = [f"{case.name}: {case.error}" for case in cohort.cases if case.error]
    lines += [f"{name}: no prediction." for name in cohort.missing]
    lines += [f"{name}: a prediction without a reference; not compared." for name in cohort.surplus]
    lines += [str(finding) for finding in cohort.findings]
    by_finding: dict[str, list[str]] = {}
    for name, report in cohort.done:
        for finding in report.findings:
            by_finding.setdefault(str(finding), []).append(name)
    lines += [f"{_few(names)}: {finding}" for finding, names in by_finding.items()]
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _few(names: Sequence[str]) -> str:
    """Names in a line; of many, the first and how many there are."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _titled(metric: Metric) -> str:
    return metric.title if metric.unit == "1" else f"{metric.title}, {metric.unit}"


def _labels(cohort: Cohort) -> str:
    shown = [metric for name in _OF_LABEL if (metric := _METRICS[name]) in cohort.metrics]
    rows = []
    for label in cohort.labels:
        cells: list[str | Cell] = [label]
        for metric in shown:
            values = cohort.values(label, metric.name)
            mean, interval = mean_defined(values), confidence(values)
            around = f"{number(interval[0], metric.unit)} to {number(interval[1], metric.unit)}" if interval else ""
            cells.append(
                Cell(f"{number(mean, metric.unit)}<small>{around}</small>", "" if math.isnan(mean) else f"{mean:.10g}")
            )
        rows_of = [one for _, one in cohort.rows(label)]
        cells.append(counted(sum(one.absent_in_both for one in rows_of)))
        cells.append(counted(sum(one.prediction_voxels == 0 < one.reference_voxels for one in rows_of)))
        cells.append(counted(sum(one.reference_voxels == 0 < one.prediction_voxels for one in rows_of)))
        rows.append(row(cells))
    headers = ["Label", *(metric.heading for metric in shown), "Absent in both", "Missed", "Invented"]
    caption = "Mean over cases, below it the 95 % confidence interval (bootstrap); a header sorts"
    return table(caption, headers, rows, sortable=True)


def _comparison(cohort: Cohort) -> str:
    tests = paired(cohort)
    if not tests:
        return ""
    rows = []
    for test in tests:
        metric = _METRICS[test["metric"]]
        cells: list[str | Cell] = [test["label"], metric.heading, counted(test["cases"])]
        cells += [measured(test[key], metric.unit) for key in ("mean_first", "mean_second", "median_difference")]
        cells += [_p(test["p"]), _p(test["p_holm"]), _verdict(test, metric)]
        rows.append(row(cells))
    headers = ["Label", "Metric", "Cases", "First", "Second", "Median difference", "p", "p after Holm", "Better"]
    caption = "Second prediction less the first; Wilcoxon's signed-rank test over the cases"
    return table(caption, headers, rows, sortable=True, words=("Metric", "Better"))


def _p(value: float) -> Cell:
    return Cell("&lt; 0.001" if value < 0.001 else f"{value:.3f}", f"{value:.10g}")


def _verdict(test: Mapping[str, float], metric: Metric) -> str:
    """Which of the two is better, where that is more than chance."""
    difference = test["mean_second"] - test["mean_first"]
    if test["p_holm"] >= _SIGNIFICANT or difference == 0:
        return "not told apart"
    return "second" if (difference > 0) == (metric.best == "higher") else "first"


def _plots(cohort: Cohort) -> str:
    if len(cohort.done) < 2:
        return ""  # what varies over cases
    figures = []
    for name in _PLOTTED:
        metric = _METRICS[name]
        if metric not in cohort.metrics:
            continue
        groups = [(label, cohort.values(label, name)) for label in cohort.labels]
        if drawn := box_plot(f"{metric.title} by label", groups, metric.unit):
            figures.append(f"<figure><figcaption>{escape(_titled(metric))}</figcaption>{drawn}</figure>")
    for label in cohort.labels:
        present = [one for _, one in cohort.rows(label) if not one.absent_in_both]
        volumes = [[one.reference_ml for one in present], [one.prediction_ml for one in present]]
        if len(present) > 1 and (drawn := bland_altman(f"Volumes of {label}", *volumes)):
            caption = f"Volume of {escape(label)}: predicted less reference (Bland and Altman)"
            figures.append(f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>")
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _named(metric: Metric) -> str:
    return f"{_titled(metric)} ({metric.short})" if metric.short else _titled(metric)


def _conventions(cohort: Cohort) -> str:
    rows = [
        f'<tr><th scope="row">{escape(_named(m))}</th><td class="words wide">{escape(m.about)}</td></tr>'
        for m in METRICS
        if m in cohort.metrics or m.per == "case"
    ]
    measuring = cohort.measuring
    notes = [f"Tolerance of the surface Dice: {measuring.tolerance_mm:g} mm."]
    if measuring.ignore is not None:
        notes.append(f"Voxels labelled {measuring.ignore} in the reference take no part.")
    if measuring.per_slice is not None:
        plane = (
            "slice in the plane of acquisition" if measuring.per_slice == "acquired" else f"{measuring.per_slice} slice"
        )
        notes.append(
            f"Every {plane} is measured for itself; a value is the mean over the slices that have the label. Volumes "
            "are of the whole."
        )
    notes.append(
        "A dash is a value that is undefined, such as a distance to a structure that one of the two does not have; "
        "means leave it out."
    )
    return f"<p>{escape(' '.join(notes))}</p>{table('Metrics', ['Metric', 'Convention'], rows, words=['Convention'])}"
