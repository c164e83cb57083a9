"""The report that people read: one HTML file that needs nothing else, on a screen, a phone or paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from medseg import __version__
from medseg.metrics import METRICS, Metric
from medseg.report.cohort import Cohort, confidence
from medseg.report.evaluation import Report, mean_defined
from medseg.report.figures import bland_altman, box_plot
from medseg.report.paired import paired
from medseg.report.viewer import ViewerCase, viewer_html

_TITLES = {metric.name: metric for metric in METRICS}
_OF_CASE = ("dice", "iou", "surface_dice", "hausdorff95_mm", "assd_mm")  # columns of the table of cases
_PLOTTED = ("dice", "surface_dice", "hausdorff95_mm")
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "img-src data: blob:; connect-src data: blob:; worker-src data: blob:; font-src data:"
)


def evaluation_page(
    cohort: Cohort, *, title: str, pictures: Mapping[str, str] = {}, viewers: Sequence[ViewerCase] = ()
) -> str:
    """The report of an evaluation.

    Args:
        cohort: What was measured.
        title: The heading.
        pictures: Data URI of a picture by the name of its case.
        viewers: What the viewer offers, the worst case first.
    """
    compared = len(cohort.done)
    parts = [
        f"<p>{compared} of {len(cohort.cases)} case(s) compared, {len(cohort.labels)} label(s). "
        f"Mean Dice over labels: <strong>{_number(cohort.mean_over_labels('dice'))}</strong>.</p>",
        _problems(cohort),
        _labels(cohort),
        _comparison(cohort),
        _plots(cohort),
        _cases(cohort),
        _worst(cohort, pictures),
        viewer_html(viewers),
        _conventions(cohort),
    ]
    return document(title, "\n".join(part for part in parts if part))


def document(title: str, body: str) -> str:
    """A page around a body: no part of it is fetched from anywhere."""
    style, script = (
        resources.files("medseg.report").joinpath("assets", name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style></head>
<body><a class="skip" href="#content">Skip to content</a>
<header><h1>{escape(title)}</h1></header>
<main id="content">
{body}
</main>
<footer class="soft"><p>Made by medseg {escape(__version__)}. For research; not a medical device.</p></footer>
<script>
{script}</script></body></html>
"""


def table(caption: str, headers: Sequence[str], rows: Sequence[str], *, sortable: bool = False) -> str:
    """A table that scrolls sideways on its own where the page is narrow."""
    if sortable:
        head = "".join(
            f'<th scope="col" aria-sort="none"><button type="button">{escape(h)}</button></th>' for h in headers
        )
    else:
        head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headers)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(cells: Sequence[str | float]) -> str:
    """A table's row; numbers sort by their value."""
    first, *others = (_cell(cell) for cell in cells)
    return f'<tr><th scope="row"{first}</th>{"".join(f"<td{cell}</td>" for cell in others)}</tr>'


def _cell(cell: str | float) -> str:
    if isinstance(cell, str):
        return f' data-value="{escape(cell)}">{escape(cell)}'
    value = "" if math.isnan(cell) else f"{cell:.10g}"
    return f' data-value="{value}">{_number(cell)}'


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def _problems(cohort: Cohort) -> str:
    lines = [f"{case.name}: {case.error}" for case in cohort.cases if case.error]
    lines += [f"{name}: no prediction." for name in cohort.missing]
    lines += [f"{name}: a prediction without a reference; not compared." for name in cohort.surplus]
    lines += [str(finding) for finding in cohort.findings]
    lines += [f"{name}: {finding}" for name, report in cohort.done for finding in report.findings]
    if not lines:
        return ""
    return f"<h2>Look at these first</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _titled(metric: Metric) -> str:
    return metric.title if metric.unit == "1" else f"{metric.title}, {metric.unit}"


def _labels(cohort: Cohort) -> str:
    shown = [metric for metric in cohort.metrics if metric.name in (*_OF_CASE, "lesion_f1", "difference_ml")]
    rows = []
    for label in cohort.labels:
        cells: list[str | float] = [label]
        for metric in shown:
            values = cohort.values(label, metric.name)
            interval = confidence(values)
            mean = _number(mean_defined(values))
            cells.append(f"{mean} [{_number(interval[0])}, {_number(interval[1])}]" if interval else mean)
        rows_of = [one for _, one in cohort.rows(label)]
        cells.append(float(sum(one.absent_in_both for one in rows_of)))
        cells.append(float(sum(one.prediction_voxels == 0 < one.reference_voxels for one in rows_of)))
        rows.append(row(cells))
    headers = ["Label", *map(_titled, shown), "Absent in both", "Missed"]
    return "<h2>Labels</h2>" + table("Mean over cases [95% confidence interval by bootstrap]", headers, rows)


def _comparison(cohort: Cohort) -> str:
    tests = paired(cohort)
    if not tests:
        return ""
    rows = [
        row(
            [
                f"{test['label']}: {_titled(_TITLES[test['metric']])}",
                *(
                    float(test[key])
                    for key in ("cases", "mean_first", "mean_second", "median_difference", "p", "p_holm")
                ),
            ]
        )
        for test in tests
    ]
    headers = ["Label and metric", "Cases", "First", "Second", "Median difference", "p", "p after Holm"]
    caption = "Second prediction less the first, Wilcoxon's signed-rank test over the cases"
    return f"<h2>Second prediction</h2>{table(caption, headers, rows, sortable=True)}"


def _plots(cohort: Cohort) -> str:
    figures = []
    for name in _PLOTTED:
        metric = _TITLES[name]
        if not any(name == one.name for one in cohort.metrics):
            continue
        groups = [(label, cohort.values(label, name)) for label in cohort.labels]
        if drawn := box_plot(f"{metric.title} by label", groups, metric.unit):
            figures.append(f"<figure>{drawn}<figcaption>{escape(_titled(metric))} by label</figcaption></figure>")
    for label in cohort.labels:
        present = [one for _, one in cohort.rows(label) if not one.absent_in_both]
        volumes = [[one.reference_ml for one in present], [one.prediction_ml for one in present]]
        if len(present) > 1 and (drawn := bland_altman(f"Volumes of {label}", *volumes)):
            caption = f"{escape(label)}: predicted less reference volume (ml) against their mean (Bland and Altman)"
            figures.append(f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>")
    return f'<h2>Plots</h2><div class="plots">{"".join(figures)}</div>' if figures else ""


def _cases(cohort: Cohort) -> str:
    shown = [metric for metric in cohort.metrics if metric.name in _OF_CASE]
    rows = []
    for case in cohort.cases:
        if case.report is None:
            columns = len(shown) + 1
            rows.append(
                f'<tr class="failed"><th scope="row" data-value="{escape(case.name)}">{escape(case.name)}</th>'
                f'<td colspan="{columns}" data-value="">{escape(case.error or "")}</td></tr>'
            )
            continue
        rows.append(row([case.name, *(case.report.mean(metric.name) for metric in shown), _worst_label(case.report)]))
    headers = ["Case", *map(_titled, shown), "Worst label"]
    return "<h2>Cases</h2>" + table("Means over labels; a header sorts", headers, rows, sortable=True)


def _worst_label(report: Report) -> str:
    known = [one for one in report.rows if not math.isnan(one.dice)]
    return min(known, key=lambda one: one.dice).name if known else "–"


def worst_first(cohort: Cohort) -> list[str]:
    """Names of the cases by mean Dice, the lowest first."""
    known = [(report.mean_dice, name) for name, report in cohort.done if not math.isnan(report.mean_dice)]
    return [name for _, name in sorted(known)]


def _worst(cohort: Cohort, pictures: Mapping[str, str]) -> str:
    reports = dict(cohort.done)
    blocks = []
    for name in worst_first(cohort):
        report = reports[name]
        headers = ["Label", *(_titled(_TITLES[metric]) for metric in report.rows[0].values)]
        rows = [row([one.name, *one.values.values()]) for one in report.rows]
        about = f"{escape(name)}, mean Dice {_number(report.mean_dice)}"
        picture = ""
        if name in pictures:
            picture = (
                f'<figure><img src="{pictures[name]}" loading="lazy" alt="{about}: the slices that differ most, '
                f'reference in blue, prediction in orange"></figure>'
            )
        numbers = f"<details><summary>All numbers of {escape(name)}</summary>{table(name, headers, rows)}</details>"
        blocks.append(f"<h3>{about}</h3>{picture}{numbers}")
    if not blocks:
        return ""
    colours = "".join(f'<span class="{name}"></span>{name} ' for name in ("reference", "prediction"))
    key = f'<p class="key">Contours: {colours}</p>'
    return f"<h2>Cases, the worst first</h2>{key if pictures else ''}{''.join(blocks)}"


def _conventions(cohort: Cohort) -> str:
    rows = [
        f'<tr><th scope="row">{escape(_titled(m))}</th><td style="white-space:normal;text-align:left">'
        f"{escape(m.about)}</td></tr>"
        for m in METRICS
        if m in cohort.metrics or m.per == "case"
    ]
    ignored = (
        ""
        if cohort.measuring.ignore is None
        else f" Voxels labelled {cohort.measuring.ignore} in the reference take no part."
    )
    note = (
        f"Tolerance of the surface Dice: {cohort.measuring.tolerance_mm:g} mm.{ignored} A dash is a value that is "
        "undefined, for instance a distance to a structure that one of the two does not have; means leave it out."
    )
    return f"<h2>What the numbers mean</h2><p>{escape(note)}</p>{table('Metrics', ['Metric', 'Convention'], rows)}"
