"""The cases of an evaluation: a table that sorts, and the worst of them with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

from medseg.metrics import METRICS
from medseg.report.cohort import Cohort
from medseg.report.document import Cell, linked, measured, number, row, table
from medseg.report.evaluation import Report
from medseg.report.figures import slice_plot

# Title and data URI of the pictures of a case.
Pictures: TypeAlias = Sequence[tuple[str, str]]

MOST_CASES = 60  # that are shown one by one; more would make a page that no phone opens

_METRICS = {metric.name: metric for metric in METRICS}
_COLUMNS = ("dice", "iou", "surface_dice", "hausdorff95_mm", "assd_mm")


def worst_first(cohort: Cohort) -> list[str]:
    """Names of the cases by mean Dice, the lowest first."""
    known = [(report.mean_dice, name) for name, report in cohort.done if not math.isnan(report.mean_dice)]
    return [name for _, name in sorted(known)]


def case_table(cohort: Cohort) -> str:
    """Every case in a row, failed ones with their reason."""
    shown = [metric for name in _COLUMNS if (metric := _METRICS[name]) in cohort.metrics]
    places = {name: place for place, name in enumerate(worst_first(cohort)[:MOST_CASES], 1)}
    two = any(case.second is not None for case in cohort.cases)
    rows = []
    for case in cohort.cases:
        if case.report is None:
            columns = len(shown) + 1 + 2 * two
            rows.append(
                f'<tr class="failed"><th scope="row" data-value="{escape(case.name)}">{escape(case.name)}</th>'
                f'<td colspan="{columns}" data-value="">{escape(case.error or "")}</td></tr>'
            )
            continue
        cells: list[str | Cell] = [linked(case.name, f"case-{places[case.name]}") if case.name in places else case.name]
        cells += [measured(case.report.mean(one.name), one.unit, bar=one.name == "dice") for one in shown]
        cells.append(_worst_label(case.report))
        if two:
            second = math.nan if case.second is None else case.second.mean_dice
            cells += [measured(second, bar=True), measured(second - case.report.mean_dice)]
        rows.append(row(cells))
    headers = ["Case", *(one.heading for one in shown), "Worst label"]
    headers += ["Dice, second", "Difference"] if two else []
    caption = "Means over labels; a header sorts, a name leads to its pictures"
    return table(caption, headers, rows, sortable=True, words=("Worst label",))


def worst_cases(cohort: Cohort, pictures: Mapping[str, Pictures]) -> str:
    """The worst cases with their pictures and all their numbers."""
    reports, names = dict(cohort.done), worst_first(cohort)
    seconds = {case.name: case.second for case in cohort.cases if case.second is not None}
    blocks = [
        _block(place, name, reports[name], seconds.get(name), pictures.get(name, ()))
        for place, name in enumerate(names[:MOST_CASES], 1)
    ]
    if not blocks:
        return ""
    kinds = ["reference", "prediction", *(["second"] if seconds else [])]
    words = {"reference": "reference", "prediction": "prediction", "second": "second prediction"}
    colours = "".join(f'<span><i class="{kind}"></i>{words[kind]}</span>' for kind in kinds)
    key = f'<p class="key">Contours: {colours}</p>' if pictures else ""
    left = len(names) - len(blocks)
    rest = f'<p class="soft">{left} better case(s) are not shown; metrics.csv has their numbers.</p>' if left else ""
    return key + "".join(blocks) + rest


def _block(place: int, name: str, report: Report, second: Report | None, pictures: Pictures) -> str:
    dice = f"Dice {number(report.mean_dice)}" + (f", second {number(second.mean_dice)}" if second else "")
    figures = "".join(
        f'<figure><img src="{uri}" width="360" height="360" loading="lazy" alt="{escape(name)}, {escape(title)}: '
        f'contours where they differ most"><figcaption>{escape(title)}</figcaption></figure>'
        for title, uri in pictures
    )
    kinds = [_METRICS[metric] for metric in report.rows[0].values]
    headers = ["Label", *(one.heading for one in kinds)]
    rows = [row([one.name, *(measured(one.values[kind.name], kind.unit) for kind in kinds)]) for one in report.rows]
    numbers = table(f"All numbers of {name}", headers, rows)
    return (
        f'<article id="case-{place}" aria-labelledby="case-{place}-title">'
        f'<h3 id="case-{place}-title">{escape(name)} <span class="soft">{dice}</span></h3>'
        f'<div class="pictures">{figures}</div>{_by_slice(name, report)}'
        f"<details><summary>All numbers of {escape(name)}</summary>{numbers}</details></article>"
    )


def _by_slice(name: str, report: Report) -> str:
    if report.slices is None:
        return ""
    values = report.slices.values["dice"]
    lines = [(one.name, values[:, number]) for number, one in enumerate(report.rows)]
    drawn = slice_plot(f"Dice of {name} by slice", lines)
    return f"<figure><figcaption>Dice by slice</figcaption>{drawn}</figure>" if drawn else ""


def _worst_label(report: Report) -> str:
    known = [one for one in report.rows if not math.isnan(one.dice)]
    return min(known, key=lambda one: one.dice).name if known else "–"
