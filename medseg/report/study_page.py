"""The report of one segmented scan, without a reference: volumes, doubts, pictures, and the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from medseg.labels import LabelSet
from medseg.report.comparing import data_uri
from medseg.report.document import Cell, Section, counted, document, measured, number, row, table, text, tiles
from medseg.report.picture import readable_rgb
from medseg.report.structures import statistics
from medseg.report.viewer import MOST_BYTES, viewer_case, viewer_html
from medseg.study import Finding
from medseg.volume import Segmentation, Volume


def study_page(
    volume: Volume,
    segmentation: Segmentation,
    labels: LabelSet,
    *,
    picture: Image.Image,
    about: Sequence[tuple[str, str]] = (),
) -> str:
    """One HTML file, without a name or any other patient data.

    Args:
        volume: The scan (C, I, J, K).
        segmentation: Its labels on the same grid, with the findings.
        labels: What to list, found or not.
        picture: The preview.
        about: What made the labels, such as ("Model", "hippocampus-mr 1.0.0").
    """
    content = statistics(volume, segmentation, labels)
    shown = viewer_case("scan", volume, (("labels", segmentation, labels),))
    preview = (
        f'<figure><img src="{data_uri(picture)}" width="{picture.width}" height="{picture.height}" '
        'alt="Three slices with the contours of the labels, and their volumes"></figure>'
    )
    sections = (
        Section("findings", "Look at these first", _findings(segmentation.findings)),
        Section("preview", "Preview", preview),
        Section("volumes", "Volumes", _volumes(content, labels)),
        Section("viewer", "Viewer", viewer_html([shown] if shown.size <= MOST_BYTES else [])),
        Section("made", "How it was made", _about(volume, about)),
    )
    return document("Segmentation of a scan", _lead(content, segmentation.findings, about), sections)


def _lead(content: dict[str, Any], findings: Sequence[Finding], about: Sequence[tuple[str, str]]) -> str:
    found = [label for label in content["labels"] if label["voxels"]]
    cut = sum(label["touches_border"] for label in found)
    entries = [
        *((name, words, "") for name, words in about[:1]),
        ("Labels found", f"{len(found)} of {len(content['labels'])}", f"{cut} at the scan's border" if cut else ""),
        ("Volume of all", f"{number(sum(label['volume_ml'] for label in found), 'ml')} ml", ""),
        ("Doubts", str(len(findings)), "" if findings else "nothing doubtful was found"),
    ]
    return tiles(entries)


def _findings(findings: Sequence[Finding]) -> str:
    return f"<ul>{''.join(f'<li>{escape(str(one))}</li>' for one in findings)}</ul>" if findings else ""


def _volumes(content: dict[str, Any], labels: LabelSet) -> str:
    rows = []
    for label in content["labels"]:
        intensity = label["mean_intensity"]
        means = intensity if isinstance(intensity, list) else [intensity]
        shown = ", ".join("–" if mean is None else f"{mean:.4g}" for mean in means)
        border = "yes: may be cut off" if label["touches_border"] else "no"
        colour = "#{:02x}{:02x}{:02x}".format(*readable_rgb(labels[label["index"]].rgb))
        name = Cell(f'<i class="swatch" style="background:{colour}"></i>{escape(label["name"])}', escape(label["name"]))
        cells: list[str | Cell] = [name, measured(label["volume_ml"], "ml"), counted(label["voxels"])]
        rows.append(row([*cells, Cell(shown, "" if means[0] is None else f"{means[0]:.10g}"), text(border)]))
    headers = ["Label", "Volume, ml", "Voxels", f"Mean intensity, {content['intensity_unit']}", "Touches the border"]
    return table("Every label; a header sorts", headers, rows, sortable=True, words=headers[-1:])


def _about(volume: Volume, about: Sequence[tuple[str, str]]) -> str:
    lines = [*about, ("Grid", str(volume.geometry)), ("Modality", volume.modality or "not stated")]
    items = "".join(f"<li>{escape(name)}: {escape(words)}</li>" for name, words in lines)
    return f"<ul>{items}</ul>"
