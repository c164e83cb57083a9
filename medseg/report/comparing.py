"""Pictures of where predictions differ from their reference."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.orientations import orientation_of, turned
from medseg.report.picture import BACKGROUND_RGB, TEXT_RGB, VIEWS, View, enlarged, inner_edge, intensity_window
from medseg.volume import Segmentation, Volume

# Blue, orange and pink of about one lightness are told apart with every kind of colour vision, and stand out from grey.
REFERENCE_RGB = (86, 180, 233)
PREDICTION_RGB = (255, 159, 28)
SECOND_RGB = (240, 120, 200)

_PANEL = 360  # pixels of a picture's sides
_MARGIN_MM = 10.0  # of the surroundings that are shown
_LEAST_SHARE = 0.25  # of the slice's longer side, so that a small structure is still seen in its place
_WIDTHS = (4, 3, 1)  # of the contours, which lie over one another where they agree: each still shows
_BARS_MM = (1, 2, 5, 10, 20, 50, 100)

Box: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True)
class Panel:
    """A picture of one slice.

    Attributes:
        title: Plane and slice, counted from 1 in RAS+ order.
        picture: With contours, letters of the sides, and a scale.
    """

    title: str
    picture: Image.Image


def comparison_panels(
    volume: Volume | None, reference: Segmentation, predictions: Sequence[Segmentation]
) -> tuple[Panel, ...]:
    """Draw the slices on which most voxels differ (or, of a perfect result, most are labelled), around the labels.

    Args:
        volume: The scan; without it the labels are drawn on black.
        reference: Labels (I, J, K).
        predictions: One or two on the same grid.

    Returns:
        An axial, a coronal and a sagittal slice; of a scan of one slice, that one.
    """
    orientation = orientation_of(reference.geometry.affine)
    masks = [turned(one.array, orientation) for one in (reference, *predictions)]
    image = None if volume is None else turned(volume.array[0], orientation)
    spacing_mm = np.empty(3)
    spacing_mm[orientation[:, 0]] = reference.geometry.spacing_mm
    flat = [axis for axis in range(3) if masks[0].shape[axis] == 1]
    panels = []
    for view in VIEWS:
        if flat and view.axis != flat[0]:
            continue
        place = _telling(masks, view.axis)
        across_mm, up_mm = (float(step) for step in np.delete(spacing_mm, view.axis))
        cuts = [np.take(mask, place, axis=view.axis) for mask in masks]
        box = _surroundings(masks, view.axis, (across_mm, up_mm))
        grey = None if image is None else np.take(image, place, axis=view.axis)[box]
        picture = _drawn(view, grey, [cut[box] for cut in cuts], (across_mm, up_mm))
        panels.append(Panel(f"{view.title}, slice {place + 1} of {masks[0].shape[view.axis]}", picture))
    return tuple(panels)


def data_uri(picture: Image.Image) -> str:
    """A picture as it stands in an HTML file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _telling(masks: Sequence[NDArray[Any]], axis: int) -> int:
    others = tuple(a for a in range(3) if a != axis)
    differ = np.sum([np.count_nonzero(masks[0] != mask, axis=others) for mask in masks[1:]], axis=0)
    counts = differ if differ.any() else np.count_nonzero(masks[0], axis=others)
    places = np.flatnonzero(counts == counts.max())
    return int(places[len(places) // 2])


def _surroundings(masks: Sequence[NDArray[Any]], axis: int, spacing_mm: tuple[float, float]) -> Box:
    """The part of every slice along an axis in which the labels of all slices lie, with a margin, nearly square."""
    seen = np.any([mask.any(axis=axis) for mask in masks], axis=0)
    if not seen.any():
        return slice(None), slice(None)
    spans, wanted = [], []
    for side, step in enumerate(spacing_mm):
        used = np.flatnonzero(seen.any(axis=1 - side))
        spans.append((int(used[0]), int(used[-1]) + 1))
        wanted.append((spans[-1][1] - spans[-1][0]) * step + 2 * _MARGIN_MM)
    longest_mm = max(n * step for n, step in zip(seen.shape, spacing_mm, strict=True))
    side_mm = max(*wanted, _LEAST_SHARE * longest_mm)
    box = []
    for (first, last), step, length in zip(spans, spacing_mm, seen.shape, strict=True):
        voxels = min(length, round(side_mm / step))
        start = min(max(0, (first + last - voxels) // 2), length - voxels)
        box.append(slice(start, start + max(1, voxels)))
    return box[0], box[1]


def _drawn(
    view: View, grey: NDArray[Any] | None, masks: list[NDArray[Any]], spacing_mm: tuple[float, float]
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
    for mask, colour, width in zip(masks, (REFERENCE_RGB, PREDICTION_RGB, SECOND_RGB), _WIDTHS, strict=False):
        drawn[inner_edge(enlarged(mask[::-1, ::-1].T, size), width)] = colour
    panel = Image.new("RGB", (_PANEL, _PANEL), BACKGROUND_RGB)
    left, top = ((_PANEL - n) // 2 for n in size)
    panel.paste(Image.fromarray(drawn), (left, top))
    _annotate(ImageDraw.Draw(panel), view, scale)
    return panel


def _annotate(pen: ImageDraw.ImageDraw, view: View, scale: float) -> None:
    """Letters of the left and the upper side, and a bar of a round length; `scale` in pixels a mm."""

    def write(x: float, y: float, words: str, anchor: str) -> None:
        font = ImageFont.load_default(14)
        pen.text((x, y), words, TEXT_RGB, font, anchor, stroke_width=2, stroke_fill=BACKGROUND_RGB)

    write(10, _PANEL / 2, view.letters[0], "mm")
    write(_PANEL / 2, 10, view.letters[2], "mm")
    length_mm = max((mm for mm in _BARS_MM if mm * scale <= _PANEL / 3), default=0)
    if length_mm:
        right, y = _PANEL - 10, _PANEL - 10
        pen.line((right - length_mm * scale, y, right, y), fill=TEXT_RGB, width=3)
        write(right, y - 5, f"{length_mm} mm", "rs")
