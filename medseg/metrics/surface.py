"""How far two surfaces lie apart, under the two conventions that are in use.

*Border voxels* (MONAI, medpy, nnU-Net): a surface is the set of voxels of a label that have a face in common with a
voxel outside it, each a point at its centre with the same weight. What lies beyond the image counts as outside.

*Surface elements* (google-deepmind/surface-distance): a surface is the set of corners between voxels that have both
inside and outside among their eight (in 2D four) voxels, each weighted by the area (length) of the surface there, as
marching cubes draws it. It does not favour structures that lie askew to the grid, and is right for thick slices.

The Hausdorff distances and the average distance of `METRICS` are of border voxels, the surface Dice is of surface
elements: so each is equal to what is published under its name. The other convention is one argument away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]
Convention = Literal["voxels", "elements"]

_CORNERS = {dims: tuple(product((0, 1), repeat=dims)) for dims in (1, 2, 3)}


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From every point of one surface to the nearest point of the other, in mm; empty where a mask is.

    Attributes:
        from_reference: (n,) from the reference's surface.
        from_prediction: (m,) from the prediction's surface.
        reference_areas: (n,) area in mm² (length in mm in 2D) that a point stands for; 1 for border voxels.
        prediction_areas: (m,) likewise.
    """

    from_reference: Distances
    from_prediction: Distances
    reference_areas: Distances
    prediction_areas: Distances

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface."""
        return bool(self.from_reference.size and self.from_prediction.size)


def surface_distances(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], convention: Convention = "voxels"
) -> SurfaceDistances:
    """Measure two masks against each other, as exactly as a Euclidean distance transform does.

    Args:
        reference: Mask of one to three axes. Axes of one voxel are left out: a slice is measured in its plane.
        prediction: Mask of the same shape.
        spacing_mm: Distance between voxel centres along each axis.
        convention: What a surface is made of.
    """
    thick = [axis for axis, length in enumerate(reference.shape) if length > 1] or [0]
    spacing = np.array([spacing_mm[axis] for axis in thick])
    reference, prediction = _cropped(
        *(mask.reshape([mask.shape[axis] for axis in thick]) for mask in (reference, prediction))
    )
    if convention == "voxels":
        surfaces = [_border(mask) for mask in (reference, prediction)]
        areas = [np.ones(int(np.count_nonzero(surface))) for surface in surfaces]
    else:
        table = element_areas(tuple(spacing.tolist()))
        codes = [_codes(mask) for mask in (reference, prediction)]
        surfaces = [(code != 0) & (code != len(table) - 1) for code in codes]
        areas = [table[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    return SurfaceDistances(*_between(surfaces[0], surfaces[1], spacing), areas[0], areas[1])


def hausdorff(distances: SurfaceDistances, percentile: float = 100.0) -> float:
    """The largest distance in mm, or a percentile of them: the larger of the two directions; NaN without a surface.

    Percentiles of border voxels are interpolated (MONAI); those of surface elements go by area (surface-distance).
    """
    if not distances.defined:
        return np.nan
    sides = (
        (distances.from_reference, distances.reference_areas),
        (distances.from_prediction, distances.prediction_areas),
    )
    return max(_percentile(lengths, areas, percentile) for lengths, areas in sides)


def average_distance(distances: SurfaceDistances) -> float:
    """Mean distance in mm over the points of both surfaces, by area; NaN without a surface."""
    if not distances.defined:
        return np.nan
    lengths = np.concatenate([distances.from_reference, distances.from_prediction])
    return float(np.average(lengths, weights=np.concatenate([distances.reference_areas, distances.prediction_areas])))


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces within a tolerance of the other (Nikolov et al., arXiv 1809.04430, equation 3).

    0 if one mask is empty, NaN if both are.
    """
    reference, prediction = distances.reference_areas, distances.prediction_areas
    if not distances.defined:
        return 0.0 if reference.size or prediction.size else np.nan
    near = (
        reference[distances.from_reference <= tolerance_mm].sum()
        + prediction[distances.from_prediction <= tolerance_mm].sum()
    )
    return float(near / (reference.sum() + prediction.sum()))


@cache
def element_areas(spacing_mm: tuple[float, ...]) -> Distances:
    """Area in mm² (2D: length in mm) of the surface for each way to fill a cell of 2×2×2 (2×2) voxels.

    The bits of a way are the cell's voxels in C order, the first one the highest.
    """
    if len(spacing_mm) == 3:
        text = resources.files("medseg.metrics").joinpath("surface_elements.csv").read_text(encoding="ascii")
        normals = np.loadtxt(text.splitlines(), delimiter=",").reshape(256, 4, 3) / 8
        a, b, c = spacing_mm
        return np.asarray(np.linalg.norm(normals * (b * c, a * c, a * b), axis=-1).sum(axis=-1))
    if len(spacing_mm) == 1:  # two points of a line, or one
        return np.array([0.0, 1.0, 1.0, 0.0])
    down, across = spacing_mm
    corner = 0.5 * float(np.hypot(down, across))
    lengths = np.full(16, corner)
    lengths[[0b0000, 0b1111]] = 0
    lengths[[0b0011, 0b1100]] = across
    lengths[[0b0101, 0b1010]] = down
    lengths[[0b0110, 0b1001]] = 2 * corner
    return lengths


def _cropped(*masks: Mask) -> tuple[Mask, ...]:
    """The masks' common bounding box."""
    either = masks[0] | masks[1]
    box = []
    for axis in range(either.ndim):
        used = np.flatnonzero(either.any(axis=tuple(a for a in range(either.ndim) if a != axis)))
        box.append(slice(used[0], used[-1] + 1) if used.size else slice(0, 0))
    return tuple(mask[tuple(box)] for mask in masks)


def _border(mask: Mask) -> Mask:
    """Voxels that have a face in common with a voxel outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        here, there = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        here[:-1] &= there[1:]
        here[1:] &= there[:-1]
        here[:1] = here[-1:] = False
    return mask & ~inside


def _codes(mask: Mask) -> NDArray[np.uint8]:
    """How each cell of neighbouring voxels is filled; one cell more than voxels along every axis."""
    corners = _CORNERS[mask.ndim]
    codes = np.zeros([length + 1 for length in mask.shape], dtype=np.uint8)
    bits = mask.view(np.uint8)
    for place, corner in enumerate(corners):
        weight = np.uint8(1 << (len(corners) - 1 - place))
        # The voxel at `corner` of cell i is voxel i + corner - 1.
        where = tuple(slice(1 - c, 1 - c + n) for c, n in zip(corner, mask.shape, strict=True))
        codes[where] += bits * weight
    return codes


def _between(reference: Mask, prediction: Mask, spacing: Distances) -> tuple[Distances, Distances]:
    """Distances of the points of either surface to the other, in the order of the points."""
    from scipy.spatial import cKDTree  # noqa: PLC0415 - takes long to load

    places: list[NDArray[Any]] = [np.argwhere(surface) for surface in (reference, prediction)]
    found = []
    for ours, theirs, own, other in ((*places, reference, prediction), (*places[::-1], prediction, reference)):
        lengths = np.full(len(ours), np.inf if len(theirs) == 0 else 0.0)
        apart = ~other[own]  # a point of both surfaces is at distance 0; good results have many
        if len(theirs) and apart.any():
            # Points of a grid are spread evenly enough that halving the box gives as good a tree as the median does.
            tree = cKDTree(theirs * spacing, balanced_tree=False)
            nearest = tree.query(ours[apart] * spacing)[1]
            # From whole steps, so that two voxels of 0.8 mm are 1.6 mm, no more: tolerances are often multiples.
            steps = (ours[apart] - theirs[nearest]).astype(np.float64)
            lengths[apart] = np.linalg.norm(steps * spacing, axis=1)
        found.append(lengths)
    return found[0], found[1]


def _percentile(lengths: Distances, areas: Distances, percentile: float) -> float:
    if percentile == 100:
        return float(lengths.max())
    if np.all(areas == 1):
        return float(np.percentile(lengths, percentile))
    order = np.argsort(lengths)
    shares = np.cumsum(areas[order]) / areas.sum()
    return float(lengths[order][min(int(np.searchsorted(shares, percentile / 100)), len(lengths) - 1)])
