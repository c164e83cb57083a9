"""Pictures of the worst cases: as many as a page has room for, and never more of them in memory."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.labels import Label, LabelSet
from medseg.report.align import reoriented
from medseg.report.cases import MOST_CASES, Pictures
from medseg.report.comparing import PREDICTION_RGB, REFERENCE_RGB, comparison_panels, data_uri
from medseg.report.viewer import MOST_BYTES, ViewerCase, viewer_case
from medseg.study import Finding
from medseg.volume import Segmentation, Volume

AGREEMENT = LabelSet(
    labels=(
        Label(index=1, name="agree", colour=(0, 178, 130)),
        Label(index=2, name="reference alone", colour=REFERENCE_RGB),
        Label(index=3, name="prediction alone", colour=PREDICTION_RGB),
        Label(index=4, name="other label", colour=(240, 228, 66)),
    )
)
_DIFFERENT = (2, 3, 4)


@dataclass(frozen=True)
class Drawn:
    """A case as a page shows it."""

    name: str
    pictures: Pictures
    viewer: ViewerCase


@dataclass
class Gallery:
    """The drawn cases, the worst first."""

    _kept: list[tuple[float, str, Drawn]] = field(default_factory=list)

    def add(self, drawn: Drawn, dice: float) -> None:
        """Take a case, and let go of the best ones that a page has no room for."""
        insort(self._kept, (math.inf if math.isnan(dice) else dice, drawn.name, drawn))
        del self._kept[MOST_CASES:]

    @property
    def pictures(self) -> dict[str, Pictures]:
        """By the case's name."""
        return {drawn.name: drawn.pictures for _, _, drawn in self._kept}

    @property
    def viewers(self) -> tuple[ViewerCase, ...]:
        """Cases whose volumes fit into the page together, the worst first."""
        room, chosen = MOST_BYTES, []
        for _, _, drawn in self._kept:
            if drawn.viewer.size <= room:
                room -= drawn.viewer.size
                chosen.append(drawn.viewer)
        return tuple(chosen)


def draw(name: str, scan: Volume | None, reference: Segmentation, predictions: Sequence[Segmentation]) -> Drawn:
    """Draw a case.

    Args:
        name: For people.
        scan: On the reference's grid.
        reference: Labels.
        predictions: One or two on the same grid.
    """
    panels = comparison_panels(scan, reference, predictions)
    pictures = [(panel.title, data_uri(panel.picture)) for panel in panels]
    titles = ("prediction", "second prediction")
    masks = [(title, agreement(reference, one), AGREEMENT) for title, one in zip(titles, predictions, strict=False)]
    return Drawn(name, pictures, viewer_case(name, scan, masks, interesting=_DIFFERENT))


def agreement(reference: Segmentation, prediction: Segmentation) -> Segmentation:
    """Where two label arrays agree and how they differ, as labels of `AGREEMENT`."""
    ours, theirs = reference.array > 0, prediction.array > 0
    kinds = np.zeros(ours.shape, dtype=np.uint8)
    kinds[ours & theirs] = 4
    kinds[ours & (reference.array == prediction.array)] = 1
    kinds[ours & ~theirs] = 2
    kinds[theirs & ~ours] = 3
    return Segmentation(kinds, reference.geometry, AGREEMENT)


def scan_on(volume: Volume, reference: Segmentation) -> tuple[Volume | None, tuple[Finding, ...]]:
    """The scan in the reference's order of axes; None and a finding if it lies on another grid."""
    if volume.geometry.matches(reference.geometry):
        return volume, ()
    channel = reoriented(Segmentation(volume.array[0], volume.geometry), to=reference.geometry)
    if channel is not None:
        return Volume(channel.array[None], reference.geometry, volume.modality), ()
    text = f"The image lies on another grid ({volume.geometry}) than the reference; pictures are without it."
    return None, (Finding("image-not-drawn", text),)
