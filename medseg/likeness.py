"""What the scans that a model was trained on were like, and how another scan differs from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.settings import Settings
from medseg.study import NO_SPACING
from medseg.volume import Volume

Range = tuple[float, float]
Ranges = tuple[Range, Range, Range]

# How far beyond the range of the training data a scan may lie before it is told: a factor for lengths, and a share of
# the range's own width for intensities. Smaller ones would tell of every other patient.
_FACTOR_EXTENT, _FACTOR_SPACING, _SHARE_INTENSITY = 1.5, 2.0, 0.5

_PERCENTILES = (1.0, 99.0)
_MOST_VOXELS = 500_000  # that percentiles are taken of


@dataclass(frozen=True)
class Outline:
    """A scan in a few numbers.

    Attributes:
        extents_mm: Field of view, shortest axis first; None where nobody knows the size of a voxel.
        spacings_mm: Finest axis first; likewise.
        intensities: 1st and 99th percentile, over all channels.
    """

    extents_mm: tuple[float, float, float] | None
    spacings_mm: tuple[float, float, float] | None
    intensities: Range

    @classmethod
    def of(cls, volume: Volume) -> Outline:
        """Measure a scan."""
        voxels = volume.array.reshape(-1)[:: -(-volume.array.size // _MOST_VOXELS)]
        low, high = (float(value) for value in np.percentile(voxels, _PERCENTILES))
        if any(finding.code == NO_SPACING for finding in volume.findings):
            return cls(None, None, (low, high))
        shortest, middle, longest = sorted(volume.geometry.extent_mm)
        finest, second, coarsest = sorted(volume.geometry.spacing_mm)
        return cls((shortest, middle, longest), (finest, second, coarsest), (low, high))


class Seen(Settings):
    """The ranges that the scans of a training run spanned; None where nobody knew.

    Attributes:
        extents_mm: Of the field of view, shortest axis first.
        spacings_mm: Finest axis first.
        low, high: Of the 1st and of the 99th percentile of the intensities; None where these have no unit.
    """

    extents_mm: Ranges | None = None
    spacings_mm: Ranges | None = None
    low: Range | None = None
    high: Range | None = None

    @classmethod
    def over(cls, outlines: Sequence[Outline], *, with_intensities: bool) -> Seen:
        """The ranges over some scans.

        Args:
            outlines: Of the scans.
            with_intensities: Whether stored values mean the same in every scan, as Hounsfield units do.
        """
        extents = [one.extents_mm for one in outlines if one.extents_mm is not None]
        spacings = [one.spacings_mm for one in outlines if one.spacings_mm is not None]
        lows, highs = zip(*(one.intensities for one in outlines), strict=True)
        return cls(
            extents_mm=_ranges(extents),
            spacings_mm=_ranges(spacings),
            low=_range(lows) if with_intensities else None,
            high=_range(highs) if with_intensities else None,
        )

    def doubts(self, volume: Volume) -> tuple[str, ...]:
        """What is unusual about a scan, a phrase each; () if nothing is."""
        found = Outline.of(volume)
        doubts = []
        for what, own, seen, factor in (
            ("a field of view", found.extents_mm, self.extents_mm, _FACTOR_EXTENT),
            ("voxels", found.spacings_mm, self.spacings_mm, _FACTOR_SPACING),
        ):
            if own is None or seen is None:
                continue
            if any(not low / factor <= n <= high * factor for n, (low, high) in zip(own, seen, strict=True)):
                usual = " × ".join(f"{low:.3g}-{high:.3g}" for low, high in seen)
                doubts.append(f"has {what} of {' × '.join(f'{n:.3g}' for n in own)} mm, those trained on {usual} mm")
        if found.intensities[0] == found.intensities[1]:
            doubts.append("has the same intensity nearly everywhere")
        elif self.low is not None and self.high is not None:
            slack = _SHARE_INTENSITY * (self.high[1] - self.low[0])
            own_low, own_high = found.intensities
            if not (
                self.low[0] - slack <= own_low <= self.low[1] + slack
                and self.high[0] - slack <= own_high <= self.high[1] + slack
            ):
                doubts.append(
                    f"has intensities from {own_low:.4g} to {own_high:.4g}, those trained on from "
                    f"{self.low[0]:.4g}…{self.low[1]:.4g} to {self.high[0]:.4g}…{self.high[1]:.4g}"
                )
        return tuple(doubts)


def _ranges(rows: Sequence[tuple[float, float, float]]) -> Ranges | None:
    if not rows:
        return None
    first, second, third = (_range(column) for column in zip(*rows, strict=True))
    return first, second, third


def _range(values: Sequence[float]) -> Range:
    return round(min(values), 3), round(max(values), 3)
