"""The report of one segmented scan, without a reference: volumes, doubts, pictures, and the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from medseg.labels import LabelSet
from medseg.report.comparing import data_uri
from medseg.report.page import document, row, table
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
    measured = statistics(volume, segmentation, labels)
    shown = viewer_case("scan", volume, (("labels", segmentation),))
    viewers = [shown] if shown is not None and shown.size <= MOST_BYTES else []
    parts = [
        _findings(segmentation.findings),
        f'<h2>Preview</h2><figure><img src="{data_uri(picture)}" alt="Three slices with the contours of the labels">'
        "</figure>",
        _volumes(measured),
        viewer_html(viewers),
        _about(volume, about),
    ]
    return document("Segmentation of a scan", "\n".join(part for part in parts if part))


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing doubtful was found.</p>"
    return f"<h2>Look at these first</h2><ul>{''.join(f'<li>{escape(str(one))}</li>' for one in findings)}</ul>"


def _volumes(measured: dict[str, Any]) -> str:
    rows = []
    for label in measured["labels"]:
        intensity = label["mean_intensity"]
        means = intensity if isinstance(intensity, list) else [intensity]
        shown = ", ".join("–" if mean is None else f"{mean:.4g}" for mean in means)
        border = "yes: may be cut off" if label["touches_border"] else "no"
        rows.append(row([label["name"], label["volume_ml"], float(label["voxels"]), shown, border]))
    headers = ["Label", "Volume, ml", "Voxels", f"Mean intensity, {measured['intensity_unit']}", "Touches the border"]
    return "<h2>Volumes</h2>" + table("Every label; a header sorts", headers, rows, sortable=True)


def _about(volume: Volume, about: Sequence[tuple[str, str]]) -> str:
    lines = [*about, ("Grid", str(volume.geometry)), ("Modality", volume.modality or "not stated")]
    items = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in lines)
    return f"<h2>How it was made</h2><ul>{items}</ul>"
