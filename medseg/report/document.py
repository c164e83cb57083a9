"""What every page is made of: the document around it, tables, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from medseg import __version__

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "img-src data: blob:; connect-src data: blob:; worker-src data: blob:; font-src data:"
)
_DECIMALS = {"1": 3, "mm": 2}


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        html: What it shows, escaped already.
        value: What it sorts by; "" comes last.
        share: Of the cell that a bar behind the text fills, 0 to 1.
        is_words: Whether it holds words rather than a number.
    """

    html: str
    value: str
    share: float | None = None
    is_words: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page that its list of contents leads to."""

    id: str
    title: str
    body: str


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A page: no part of it is fetched from anywhere.

    Args:
        title: The heading.
        lead: What stands above the list of contents, HTML.
        sections: The rest; those without a body are left out.
    """
    style, script = (
        resources.files("medseg.report").joinpath("assets", name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    shown = [section for section in sections if section.body]
    contents = "".join(f'<li><a href="#{one.id}">{escape(one.title)}</a></li>' for one in shown)
    body = "\n".join(
        f'<section id="{one.id}" aria-labelledby="{one.id}-title">\n<h2 id="{one.id}-title">{escape(one.title)}</h2>\n'
        f"{one.body}\n</section>"
        for one in shown
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
{lead}
<nav aria-label="Contents"><ul>{contents}</ul></nav>
{body}
</main>
<footer class="soft"><p>Made by medseg {escape(__version__)}. For research; not a medical device.</p></footer>
<script>
{script}</script></body></html>
"""


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Figures to see at a glance: (name, figure, what is to be known about it)."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{escape(figure)}</strong>"
        f"{f' <span>{escape(about)}</span>' if about else ''}</dd></div>"
        for name, figure, about in entries
    )
    return f'<dl class="tiles">{items}</dl>'


def table(
    caption: str, headers: Sequence[str], rows: Sequence[str], *, sortable: bool = False, words: Sequence[str] = ()
) -> str:
    """A table that scrolls sideways on its own where the page is narrow; headers among `words` are of words."""
    head = ""
    for name in headers:
        kind = ' class="words"' if name in words else ""
        title = escape(name)
        sort, title = (' aria-sort="none"', f'<button type="button">{title}</button>') if sortable else ("", title)
        head += f'<th scope="col"{kind}{sort}>{title}</th>'
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(cells: Sequence[str | Cell]) -> str:
    """A table's row."""
    first, *others = (_cell(cell if isinstance(cell, Cell) else text(cell)) for cell in cells)
    return f'<tr><th scope="row"{first}</th>{"".join(f"<td{cell}</td>" for cell in others)}</tr>'


def text(words: str) -> Cell:
    """A cell of words."""
    return Cell(escape(words), escape(words), is_words=True)


def linked(words: str, target: str) -> Cell:
    """A cell of words that lead to a place on the page."""
    return Cell(f'<a href="#{target}">{escape(words)}</a>', escape(words), is_words=True)


def measured(value: float, unit: str = "1", *, bar: bool = False) -> Cell:
    """A cell of a number, which sorts by its value."""
    known = math.isfinite(value)
    share = min(1.0, max(0.0, value)) if bar and known else None
    return Cell(number(value, unit), f"{value:.10g}" if known else "", share)


def counted(value: int) -> Cell:
    """A cell of a count."""
    return Cell(f"{value:,}".replace(",", "\u202f"), str(value))


def number(value: float, unit: str = "1") -> str:
    """A number with as many decimals as its unit deserves; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    if unit in _DECIMALS:
        shown = f"{value:.{_DECIMALS[unit]}f}"
    elif abs(value) >= 100 or value == 0:
        shown = f"{value:.0f}"
    else:
        shown = f"{value:#.3g}" if abs(value) >= 0.01 else f"{value:.4f}"
    return shown.replace("-", "−") if float(shown) else shown.removeprefix("-")


def _cell(cell: Cell) -> str:
    bar = ' class="words"' if cell.is_words else ""
    if cell.share is not None:
        bar = f' class="bar" style="--share:{cell.share:.3f}"'
    return f'{bar} data-value="{cell.value}">{cell.html}'
