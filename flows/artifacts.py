"""What Prefect's UI shows of a study: labels and volumes, a preview, and where the files lie."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from PIL import Image
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

import medseg
from flows.exchange import PLAIN
from medseg.ledger import RECORD, Record, read_record
from medseg.publish import PREVIEW, STATISTICS

_PIXELS = (720, 720)  # of the preview at most: Prefect's database keeps one of every run
_BAR_S = 2.0  # between two of a bar's changes at least: each is a write into Prefect's database


@dataclass(frozen=True)
class Done:
    """A scan that has a result.

    Attributes:
        number: In the study, from 1.
        folder: Of the record.
        mask: The label file.
    """

    number: int
    folder: Path
    mask: Path


@task(name="report", task_run_name="report", **PLAIN)
def report(done: list[Done], passed_over: list[str], reference: Path | None) -> None:
    """Show labels, volumes and, with a reference, Dice; a preview; links to all files, and what is doubtful."""
    rows = [row for one in done for row in _rows(one, reference)]
    create_table_artifact(key="labels", table=rows, description="Labels and volumes")
    lines = [line for one in done for line in _lines(one)]
    lines += [f"- passed over: {reason}" for reason in passed_over]
    create_markdown_artifact(key="files", markdown="\n".join(lines), description="Masks, reports and records")
    # An image artifact would show the picture's whole text as its address.
    pictures = [
        f"Scan {one.number}\n\n![three slices with contours]({thumbnail(one.folder / PREVIEW)})"
        for one in done
        if (one.folder / PREVIEW).is_file()
    ]
    if pictures:
        create_markdown_artifact(key="preview", markdown="\n\n".join(pictures), description="Slices with contours")


def progress_bar(description: str) -> Callable[[int, int], None]:
    """Show a bar; gives what moves it, called with (done, in all)."""
    # Within a flow that is no coroutine Prefect answers at once, which its types do not say.
    bar = cast("UUID", create_progress_artifact(0.0, key="progress", description=description))
    shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown > _BAR_S:
            update_progress_artifact(bar, 100.0 * done / total)
            shown = time.monotonic()

    return show


def thumbnail(picture: Path) -> str:
    """A small copy of a picture as a data URL, since a browser that shows Prefect's page opens no local file."""
    buffer = io.BytesIO()
    with Image.open(picture) as image:
        image.thumbnail(_PIXELS)
        image.convert("RGB").save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(one: Done, reference: Path | None) -> Iterator[dict[str, Any]]:
    scores = _dice(reference, one.mask) if reference else {}
    path = one.folder / STATISTICS
    for label in json.loads(path.read_text(encoding="utf-8"))["labels"] if path.is_file() else []:
        row = {"scan": one.number, "label": label["name"], "volume, ml": label["volume_ml"]}
        yield row | ({"Dice": scores.get(label["name"])} if reference else {})


def _dice(reference: Path, mask: Path) -> dict[str, float | None]:
    content = json.loads(medseg.evaluate(reference, mask).to_json())
    found = {row["name"]: row["dice"] for row in content["labels"]}
    return {name: value if value is None else round(value, 4) for name, value in found.items()}


def _lines(one: Done) -> Iterator[str]:
    record = read_record(one.folder)
    assert record is not None  # written when the scan was done
    # A browser follows no link from Prefect's page to a file, so that the folder has to be there to be copied.
    yield f"- scan {one.number}, in `{one.folder.resolve()}`:"
    for file in (one.folder / RECORD, *_outputs(one.folder, record)):
        yield f"  - [{file.name}]({file.resolve().as_uri()})"
    for finding in record.findings:
        yield f"  - {finding.message}"


def _outputs(folder: Path, record: Record) -> Iterator[Path]:
    return (folder / output.name for output in record.outputs)
