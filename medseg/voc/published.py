"""Mean IoU on PASCAL VOC 2012 as published, with conditions and source."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from importlib import resources
from textwrap import wrap
from typing import Literal


@dataclass(frozen=True)
class Published:
    """One figure.

    Attributes:
        architecture: Its name in `medseg.networks.ARCHITECTURES`.
        variant: Which of the paper's networks.
        set: What it was measured on: test, val, or another set.
        miou: In per cent.
        conditions: Training data and what was done besides a single pass.
        source: Where it stands.
    """

    architecture: str
    variant: str
    set: str
    miou: float
    conditions: str
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All figures, in the order of the papers."""
    text = resources.files("medseg.voc").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return tuple(Published(**{**row, "miou": float(row["miou"])}) for row in rows)  # type: ignore[arg-type]


def published_table(kind: Literal["text", "csv", "json"], architecture: str | None = None) -> str:
    """The figures, of one architecture if it is named, as text in 80 columns, CSV or JSON."""
    rows = [row for row in published() if architecture in (None, row.architecture)]
    if kind == "json":
        return json.dumps([asdict(row) for row in rows])
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([field.name for field in fields(Published)])
        writer.writerows(astuple(row) for row in rows)
        return text.getvalue().rstrip("\n")
    lines: list[str] = []
    heading = ""
    for row in rows:
        if heading != (heading := row.architecture):
            lines.append(heading)
        lines += figure_lines(row)
    return "\n".join(lines)


def figure_lines(row: Published) -> list[str]:
    """A figure as one line or two of at most 80 columns: mIoU, set, variant, conditions and source."""
    start = f"  {row.miou:>6.2f}  "
    about = f"{row.set}: {row.variant}; {row.conditions} ({row.source})"
    return wrap(about, 80, initial_indent=start, subsequent_indent=" " * len(start))
