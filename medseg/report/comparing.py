"""Pictures of where a prediction differs from its reference."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.report.picture import BACKGROUND_RGB, TEXT_RGB, VIEWS, enlarged, inner_edge, intensity_window
from medseg.volume import Segmentation, Volume

# Blue and orange of equal lightness are told apart with every kind of colour vision, and stand out from grey.
REFERENCE_RGB = (86, 180, 233)
PREDICTION_RGB = (255, 159, 28)
_PANEL = 300
_MARGIN = 18


def comparison_picture(volume: Volume | None, reference: Segmentation, prediction: Segmentation) -> Image.Image:
    """Draw the slices on which most voxels differ (or, of a perfect result, most are labelled), with both contours.

    Args:
        volume: The scan; without it the labels are drawn on black.
        reference: Labels (I, J, K).
        prediction: Labels on the same grid.
    """
    orientation = io_orientation(reference.geometry.affine)
    ours, theirs = (apply_orientation(one.array, orientation) for one in (reference, prediction))
    image = None if volume is None else apply_orientation(volume.array[0], orientation)
    spacing_mm = np.empty(3)
    spacing_mm[orientation[:, 0].astype(int)] = reference.geometry.spacing_mm
    flat = [axis for axis in range(3) if ours.shape[axis] == 1]
    panels = []
    for view in VIEWS:
        if flat and view.axis != flat[0]:
            continue
        place = _telling(ours, theirs, view.axis)
        masks = [np.take(array, place, axis=view.axis) for array in (ours, theirs)]
        grey = None if image is None else np.take(image, place, axis=view.axis)
        across_mm, up_mm = np.delete(spacing_mm, view.axis)
        title = f"{view.title} {place + 1}/{ours.shape[view.axis]}"
        panels.append(_panel(title, grey, masks, (float(across_mm), float(up_mm))))
    page = Image.new("RGB", (sum(panel.width for panel in panels), panels[0].height), BACKGROUND_RGB)
    for number, panel in enumerate(panels):
        page.paste(panel, (number * panels[0].width, 0))
    return page


def data_uri(picture: Image.Image) -> str:
    """A picture as it stands in an HTML file."""
    buffer = io.BytesIO()
    picture.quantize(128).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _telling(reference: NDArray[Any], prediction: NDArray[Any], axis: int) -> int:
    others = tuple(a for a in range(3) if a != axis)
    differ = np.count_nonzero(reference != prediction, axis=others)
    counts = differ if differ.any() else np.count_nonzero(reference, axis=others)
    places = np.flatnonzero(counts == counts.max())
    return int(places[len(places) // 2])


def _panel(
    title: str, grey: NDArray[Any] | None, masks: list[NDArray[Any]], spacing_mm: tuple[float, float]
) -> Image.Image:
    width_mm, height_mm = (n * s for n, s in zip(masks[0].shape, spacing_mm, strict=True))
    scale = _PANEL / max(width_mm, height_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    drawn = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    if grey is not None:
        low, high = intensity_window([grey])
        pixels = np.nan_to_num(np.clip((grey.astype(np.float32) - low) / (high - low), 0, 1))
        picture = Image.fromarray((pixels[::-1, ::-1].T * 255).astype(np.uint8))
        drawn = np.asarray(picture.resize(size, Image.Resampling.BICUBIC).convert("RGB")).copy()
    for mask, colour in zip(masks, (REFERENCE_RGB, PREDICTION_RGB), strict=True):
        drawn[inner_edge(enlarged(mask[::-1, ::-1].T, size))] = colour
    panel = Image.new("RGB", (_PANEL + _MARGIN, _PANEL + 2 * _MARGIN), BACKGROUND_RGB)
    panel.paste(Image.fromarray(drawn), tuple((n - m) // 2 for n, m in zip(panel.size, size, strict=True)))
    ImageDraw.Draw(panel).text((4, 2), title, fill=TEXT_RGB, font=ImageFont.load_default(12))
    return panel
