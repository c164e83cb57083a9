"""Whether a written file holds what was in memory: every file is read back before it counts.

Centroid, box and volume of every label are compared in world space, so that an axis that was swapped, a spacing that
was taken for another or a slice that went missing shows, whatever the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.errors import VerificationError
from medseg.formats.base import shown
from medseg.formats.planes import Labels, Planes
from medseg.labels import BACKGROUND

_SHIFT = 0.01  # voxels: what rounding in a header may move
_SHIFT_MM = 2e-3
_MOST_LABELS = 2**16  # above, labels are numbered anew, so that tables by label stay small
_BOUNDS = (np.minimum, np.maximum)
_VOLUME = 2e-3  # relative: what rounding of a spacing in a header may change

_Places: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Extent:
    """Where a label lies in the world (RAS+).

    Attributes:
        volume_mm3: Voxels times what a voxel stands for.
        centroid_mm: Mean of the voxel centres, (3,).
        box_mm: Smallest and largest coordinates of the corners of its rectangle in each plane, (2, 3).
    """

    volume_mm3: float
    centroid_mm: NDArray[np.float64]
    box_mm: NDArray[np.float64]


def extents(labels: Labels, planes: Planes) -> dict[int, Extent]:
    """The extent of every label but background that occurs.

    Args:
        labels: (N, rows, columns).
        planes: Where they lie.
    """
    if labels.max() > _MOST_LABELS:
        values, dense = np.unique(labels, return_inverse=True)
        offset = 0 if values[0] == BACKGROUND else 1
        found = extents(dense.reshape(labels.shape) + offset, planes)
        return {int(values[label - offset]): extent for label, extent in found.items()}
    size = int(labels.max()) + 1
    voxels, sums = np.zeros(size), np.zeros((size, 3))
    low, high = np.full((size, 3), np.inf), np.full((size, 3), -np.inf)
    for plane, origin in zip(labels, planes.origins_mm, strict=True):
        label, row, first, last = _runs(plane)
        if not label.size:
            continue
        bounds = np.flatnonzero(np.diff(label, prepend=BACKGROUND))
        here, length = label[bounds], last - first + 1
        count = np.add.reduceat(length, bounds)
        rows = np.add.reduceat(length * row, bounds)
        columns = np.add.reduceat(length * (first + last), bounds) / 2
        voxels[here] += count
        sums[here] += np.outer(count, origin) + np.outer(rows, planes.row_step_mm)
        sums[here] += np.outer(columns, planes.column_step_mm)
        by_row = [np.outer(bound.reduceat(row, bounds), planes.row_step_mm) for bound in _BOUNDS]
        ends = (np.minimum.reduceat(first, bounds), np.maximum.reduceat(last, bounds))
        corners = np.stack([origin + r + np.outer(c, planes.column_step_mm) for r in by_row for c in ends])
        low[here] = np.minimum(low[here], corners.min(axis=0))
        high[here] = np.maximum(high[here], corners.max(axis=0))
    volume = planes.voxel_volume_mm3
    return {
        int(label): Extent(voxels[label] * volume, sums[label] / voxels[label], np.array((low[label], high[label])))
        for label in np.flatnonzero(voxels)
    }


def confirm(name: Path, wanted: tuple[Labels, Planes], found: tuple[Labels, Planes]) -> None:
    """Compare what was read back from a file with what was to be written.

    Args:
        name: The file, for the message.
        wanted: Labels in memory.
        found: Labels in the file.

    Raises:
        VerificationError: If a label is missing, is new, or differs in place, box or volume.
    """
    planes = wanted[1]
    smallest = min(float(np.linalg.norm(step)) for step in (planes.column_step_mm, planes.row_step_mm))
    tolerance_mm = _SHIFT * min(smallest, planes.step_mm) + _SHIFT_MM
    if _same_voxels(wanted[0], found[0]) and _same_places(planes, found[1], tolerance_mm):
        return  # so are all extents, without looking for them
    before, after = extents(*wanted), extents(*found)
    if before.keys() != after.keys():
        label = min(before.keys() ^ after.keys())
        raise mismatch(name, f"label {label} is {'missing' if label in before else 'not in the segmentation'}")
    for label, one in before.items():
        other = after[label]
        if abs(other.volume_mm3 - one.volume_mm3) > _VOLUME * one.volume_mm3:
            text = f"{other.volume_mm3:.6g} mm³ instead of {one.volume_mm3:.6g} mm³"
            raise mismatch(name, f"label {label} has {text}")
        for what, is_, was in (
            ("centroid", other.centroid_mm, one.centroid_mm),
            ("box", other.box_mm, one.box_mm),
        ):
            apart = float(np.abs(is_ - was).max())
            if not apart <= tolerance_mm:
                raise mismatch(name, f"the {what} of label {label} is {apart:.3g} mm off")


def _same_voxels(one: Labels, other: Labels) -> bool:
    """Whether all labels are the same, plane by plane: without a mask as large as the volume."""
    return one.shape == other.shape and all(map(np.array_equal, one, other))


def _same_places(one: Planes, other: Planes, tolerance_mm: float) -> bool:
    """Whether no voxel is further apart than the tolerance, and none stands for another volume."""
    apart_mm = (
        np.abs(one.origins_mm - other.origins_mm).max(axis=0)
        + np.abs(one.row_step_mm - other.row_step_mm) * one.rows
        + np.abs(one.column_step_mm - other.column_step_mm) * one.columns
    )
    grown = abs(other.voxel_volume_mm3 - one.voxel_volume_mm3) / one.voxel_volume_mm3
    return bool(apart_mm.max() <= tolerance_mm and grown <= _VOLUME)


def _runs(plane: Labels) -> tuple[Labels, _Places, _Places, _Places]:
    """Voxels of a plane that follow one another in a row and share a label: label, row, first and last column.

    Those of a label follow one another, and runs of background are left out: far fewer numbers than there are voxels.
    """
    begins = np.empty(plane.shape, dtype=bool)
    begins[:, 0] = True
    np.not_equal(plane[:, 1:], plane[:, :-1], out=begins[:, 1:])
    places = np.flatnonzero(begins)
    row, first = np.divmod(places, plane.shape[1])
    last = np.append(places[1:], plane.size) - 1 - row * plane.shape[1]
    label = plane[row, first]
    order = np.argsort(label, kind="stable")
    order = order[np.searchsorted(label[order], BACKGROUND, side="right") :]
    return label[order], row[order], first[order], last[order]


def mismatch(name: Path, what: str) -> VerificationError:
    """The error for a file that, read back, is not what was written."""
    return VerificationError(
        f"{shown(name)}: read back, it does not hold what was written: {what}; the file was removed."
        " Please report this with the scan's format."
    )
