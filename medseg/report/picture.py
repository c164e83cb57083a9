"""A picture to check a result by: three orthogonal slices with the contours of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.labels import BACKGROUND, Label, LabelSet
from medseg.orientations import orientation_of, turned
from medseg.volume import Segmentation, Volume

BACKGROUND_RGB = (16, 18, 22)
TEXT_RGB = (225, 228, 232)
_DIM = (150, 156, 164)
_PANEL = 384  # pixels of a panel's longer side
_MARGIN = 26  # around a panel, for its letters
_LINE = 20
_LEGEND_COLUMN = 256
_LEGEND_LABELS = 24
_CONTOUR = 2  # pixels
_DARKEST = 110  # of a label's colour, on luma's scale to 255


@dataclass(frozen=True)
class View:
    """A way to look at a volume in RAS+ order: which axes go right and down, and what stands at the edges."""

    title: str
    axis: int  # the one that is cut
    letters: str  # left, right, top, bottom


# As radiologists hold pictures: the patient's right is on the left; the sagittal slice looks to the left.
VIEWS = (
    View("axial", 2, "RLAP"),
    View("coronal", 1, "RLSI"),
    View("sagittal", 0, "APSI"),
)


def preview(volume: Volume, segmentation: Segmentation, labels: LabelSet) -> Image.Image:
    """Draw the slices that show most of the labels; the middle ones where no label was found.

    Args:
        volume: The scan (C, I, J, K); its first channel is drawn, or its colours if it is a photograph.
        segmentation: Its labels (I, J, K) on the same grid.
        labels: Names and colours for the legend.

    Returns:
        An RGB picture: up to three panels, true to scale in mm, above a legend with volumes in ml. A scan of one slice
        has one panel.
    """
    orientation = orientation_of(volume.geometry.affine)
    numbers = turned(segmentation.array, orientation)
    colours = 3 if len(volume.array) == 3 and volume.array.dtype == np.uint8 else 1
    image = np.stack([turned(channel, orientation) for channel in volume.array[:colours]], axis=-1)
    order = orientation[:, 0]
    spacing_mm = np.empty(3)
    spacing_mm[order] = volume.geometry.spacing_mm
    flat = [axis for axis in range(3) if numbers.shape[axis] == 1]
    views = [view for view in VIEWS if not flat or view.axis == flat[0]]

    cuts = [np.take(image, _fullest(numbers, view.axis), axis=view.axis) for view in views]
    low, high = intensity_window(cuts)
    panels = []
    for view, cut in zip(views, cuts, strict=True):
        grey = np.clip((cut.astype(np.float32) - low) / (high - low), 0, 1)
        mask = np.take(numbers, _fullest(numbers, view.axis), axis=view.axis)
        across_mm, up_mm = np.delete(spacing_mm, view.axis)
        panels.append(_panel(view, grey, mask, (float(across_mm), float(up_mm)), labels))
    return _page(panels, _legend(segmentation, labels))


def _fullest(numbers: NDArray[np.integer[Any]], axis: int) -> int:
    """The plane with most labelled voxels; the middle of them where several have as many."""
    others = tuple(a for a in range(3) if a != axis)
    counts = np.count_nonzero(numbers, axis=others)
    fullest = np.flatnonzero(counts == counts.max())
    return int(fullest[len(fullest) // 2])


def intensity_window(cuts: list[NDArray[Any]]) -> tuple[float, float]:
    """What becomes black and white: percentiles of the finite values that the slices show."""
    values = np.concatenate([cut.ravel() for cut in cuts])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def _panel(
    view: View, grey: NDArray[np.float32], mask: NDArray[Any], spacing_mm: tuple[float, float], labels: LabelSet
) -> Image.Image:
    """One slice (right, up, channels) with contours and letters."""
    width_mm, height_mm = (n * s for n, s in zip(mask.shape, spacing_mm, strict=True))
    scale = _PANEL / max(width_mm, height_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    # Both axes of a RAS+ slice grow against the picture's: leftwards (or forwards) and upwards.
    pixels = (np.nan_to_num(grey)[::-1, ::-1].swapaxes(0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    drawn = np.asarray(picture).copy()
    numbers = enlarged(mask[::-1, ::-1].T, size)
    edge = inner_edge(numbers)
    for label in labels:
        drawn[edge & (numbers == label.index)] = readable_rgb(label.rgb)
    panel = Image.new("RGB", (_PANEL + 2 * _MARGIN, _PANEL + 2 * _MARGIN), BACKGROUND_RGB)
    left, top = (_MARGIN + (_PANEL - n) // 2 for n in size)
    panel.paste(Image.fromarray(drawn), (left, top))
    pen = ImageDraw.Draw(panel)
    font = ImageFont.load_default(15)
    middle = _MARGIN + _PANEL / 2
    places = ((left - 12, middle), (left + size[0] + 12, middle), (middle, top - 12), (middle, top + size[1] + 12))
    for letter, place in zip(view.letters, places, strict=True):
        pen.text(place, letter, fill=TEXT_RGB, font=font, anchor="mm")
    pen.text((4, 4), view.title, fill=_DIM, font=ImageFont.load_default(13))
    return panel


def enlarged(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest neighbour to (width, height) pixels, for label numbers of any integer type."""
    rows = np.arange(size[1]) * mask.shape[0] // size[1]
    columns = np.arange(size[0]) * mask.shape[1] // size[0]
    return mask[np.ix_(rows, columns)]


def inner_edge(numbers: NDArray[Any], width: int = _CONTOUR) -> NDArray[np.bool_]:
    """Labelled pixels within a contour's width of another label or of background."""
    edge = np.zeros(numbers.shape, dtype=bool)
    padded = np.pad(numbers, width, mode="edge")
    rows, columns = numbers.shape
    for shift in range(-width, width + 1):
        edge |= padded[width + shift :, width:][:rows, :columns] != numbers
        edge |= padded[width:, width + shift :][:rows, :columns] != numbers
    edge &= numbers != BACKGROUND
    return edge


def readable_rgb(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour, lightened as far as it takes to stand out from a dark page."""
    rgb = np.array(colour, dtype=float)
    luma = float(rgb @ (0.299, 0.587, 0.114))
    if luma < _DARKEST:
        rgb += (255 - rgb) * (_DARKEST - luma) / (255 - luma)
    red, green, blue = (round(c) for c in rgb.tolist())
    return red, green, blue


def _legend(segmentation: Segmentation, labels: LabelSet) -> list[tuple[Label | None, str]]:
    """The labels that were found, the largest first, each with its line of text."""
    voxels = np.bincount(segmentation.array.ravel(), minlength=max(labels.indices) + 1)
    found = sorted((label for label in labels if voxels[label.index]), key=lambda label: -voxels[label.index])
    if not found:
        return [(None, "no label found")]
    ml = segmentation.geometry.voxel_volume_mm3 / 1000
    lines: list[tuple[Label | None, str]] = []
    for label in found[:_LEGEND_LABELS]:
        volume_ml = voxels[label.index] * ml
        lines.append((label, f"{label.name}  {format(volume_ml, ',.0f' if volume_ml >= 100 else '.3g')} ml"))
    if len(found) > _LEGEND_LABELS:
        lines.append((None, f"and {len(found) - _LEGEND_LABELS} more"))
    return lines


def _page(panels: list[Image.Image], legend: list[tuple[Label | None, str]]) -> Image.Image:
    width = sum(panel.width for panel in panels)
    columns = max(1, width // _LEGEND_COLUMN)
    rows = -(-len(legend) // columns)
    page = Image.new("RGB", (width, panels[0].height + rows * _LINE + _MARGIN), BACKGROUND_RGB)
    for number, panel in enumerate(panels):
        page.paste(panel, (number * panel.width, 0))
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)
    for number, (label, text) in enumerate(legend):
        x = 8 + number % columns * _LEGEND_COLUMN
        y = panels[0].height + number // columns * _LINE + _LINE // 2
        if label is not None:
            pen.rectangle((x, y - 6, x + 12, y + 6), fill=readable_rgb(label.rgb))
        pen.text((x + 20, y), _fit(text, font, _LEGEND_COLUMN - 28), fill=TEXT_RGB, font=font, anchor="lm")
    return page


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut the middle out of a text that is too wide, so that name and volume both stay."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) // 2
    while keep > 4 and font.getlength(f"{text[:keep]}…{text[-keep:]}") > width:
        keep -= 1
    return f"{text[:keep]}…{text[-keep:]}"
