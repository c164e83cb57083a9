"""A volume made small enough for a browser: the part around the labels, at every second voxel if need be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.volume import Segmentation, Volume

_MARGIN_MM = 25.0


@dataclass(frozen=True)
class Reduced:
    """A part of a scan and of its masks.

    Attributes:
        scan: (I, J, K), the first channel; None if there is no scan.
        masks: (I, J, K) each.
        geometry: Where the voxels lie.
        note: What was done, for people; empty if nothing was.
    """

    scan: NDArray[Any] | None
    masks: tuple[NDArray[Any], ...]
    geometry: Geometry
    note: str


def reduced(masks: Sequence[Segmentation], volume: Volume | None, *, most_voxels: int) -> Reduced:
    """Cut a scan of more than `most_voxels` to the surroundings of its labels, and take every nth voxel if it still is.

    Args:
        masks: On one grid.
        volume: On the same grid, or None.
        most_voxels: That may be left.
    """
    geometry = masks[0].geometry
    box, steps, notes = [slice(0, n) for n in geometry.shape], [1, 1, 1], []
    if np.prod(geometry.shape) > most_voxels:
        box = _around(masks)
        if any(side != slice(0, n) for side, n in zip(box, geometry.shape, strict=True)):
            notes.append("cut to the surroundings of the labels")
    lengths = np.array([side.stop - side.start for side in box])
    spacing = np.array(geometry.spacing_mm)
    while np.prod(-(-lengths // steps)) > most_voxels:
        finest = min((a for a in range(3) if lengths[a] > steps[a]), key=lambda a: spacing[a] * steps[a])
        steps[finest] += 1
    if max(steps) > 1:
        notes.append(f"shown at every {' × '.join(map(str, steps))}th voxel")
    part = tuple(slice(side.start, side.stop, step) for side, step in zip(box, steps, strict=True))
    to_old = np.diag([*map(float, steps), 1.0])
    to_old[:3, 3] = [side.start for side in box]
    arrays = tuple(one.array[part] for one in masks)
    i, j, k = arrays[0].shape
    return Reduced(
        None if volume is None else volume.array[0][part],
        arrays,
        Geometry((i, j, k), geometry.affine @ to_old),
        ", ".join(notes),
    )


def _around(masks: Sequence[Segmentation]) -> list[slice]:
    """The box of all labels and a margin; the whole where there are none."""
    geometry = masks[0].geometry
    box = []
    for axis, (length, step) in enumerate(zip(geometry.shape, geometry.spacing_mm, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(np.any([one.array.any(axis=others) for one in masks], axis=0))
        if used.size == 0:
            return [slice(0, n) for n in geometry.shape]
        margin = round(_MARGIN_MM / step)
        box.append(slice(max(0, int(used[0]) - margin), min(length, int(used[-1]) + 1 + margin)))
    return box
