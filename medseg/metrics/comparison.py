"""Two label arrays, and what all metrics share of them: computed once, in the regions' bounding boxes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.metrics.overlap import Confusion, Counts, Labels, confusion
from medseg.metrics.surface import Convention, SurfaceDistances, surface_distances

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]

_MOST_BOXES = 1 << 16  # a label number beyond this is given a smaller one before boxes are sought


class Comparison:
    """A reference and a prediction on one grid.

    Args:
        reference: Label numbers; any shape of one to three axes, memory order and integer type.
        prediction: Label numbers of the same shape.
        spacing_mm: Distance between voxel centres along each axis.
        regions: What to measure, each one label or several taken together; by default every label that occurs.
        ignore: Voxels with this label in the reference take no part.
        tolerance_mm: Of the surface Dice.
        voxel_mm3: Volume of a voxel (in 2D its area); by default the product of the spacings.

    Raises:
        GeometryError: If the shapes differ.
        InputError: If a label is negative.
        ConfigError: If the spacing does not fit the axes, or the tolerance is negative.
    """

    def __init__(
        self,
        reference: Labels,
        prediction: Labels,
        spacing_mm: Sequence[float],
        *,
        regions: Sequence[tuple[int, ...]] | None = None,
        ignore: int | None = None,
        tolerance_mm: float = 1.0,
        voxel_mm3: float | None = None,
    ) -> None:
        if len(spacing_mm) != reference.ndim or min(spacing_mm) <= 0 or tolerance_mm < 0:
            raise ConfigError(
                f"Spacing {tuple(spacing_mm)} mm and tolerance {tolerance_mm} mm for {reference.ndim} axes; "
                "give one positive spacing an axis and a tolerance of at least 0."
            )
        self.tolerance_mm = tolerance_mm
        self.voxel_mm3 = float(np.prod(spacing_mm)) if voxel_mm3 is None else voxel_mm3
        listed = tuple(index for region in regions or () for index in region)
        pairs = confusion(reference, prediction, listed)
        self.confusion: Confusion = pairs if ignore is None else pairs.ignoring(ignore)
        self.regions = tuple(regions) if regions is not None else _occurring(self.confusion, ignore)
        # Along the memory, as the reference lies in it: the passes over boxes are several times faster.
        order = np.argsort([-abs(stride) for stride in reference.strides], kind="stable")
        self.spacing_mm = tuple(spacing_mm[axis] for axis in order)
        self._arrays = reference.transpose(order), prediction.transpose(order)
        self._ignore = ignore
        self._surfaces: dict[tuple[int, Convention], SurfaceDistances] = {}

    def of(self, regions: Sequence[tuple[int, ...]]) -> Comparison:
        """The same arrays, already counted, with other regions."""
        other = copy(self)
        other.__dict__.pop("counts", None)
        other.regions, other._surfaces = tuple(regions), {}
        return other

    @cached_property
    def counts(self) -> Counts:
        """Voxels of every region."""
        return self.confusion.of_regions(self.regions)

    def masks(self, number: int) -> tuple[Mask, Mask]:
        """A region in the reference and in the prediction, in their common bounding box and a voxel around it."""
        box = self._box(self.regions[number])
        reference, prediction = (array[box] for array in self._arrays)
        masks = [_is_one_of(array, self.regions[number]) for array in (reference, prediction)]
        if self._ignore is not None:
            masks = [mask & (reference != self._ignore) for mask in masks]
        return masks[0], masks[1]

    def surfaces(self, number: int, convention: Convention) -> SurfaceDistances:
        """Distances between the surfaces of a region."""
        key = number, convention
        if key not in self._surfaces:
            self._surfaces[key] = surface_distances(*self.masks(number), self.spacing_mm, convention)
        return self._surfaces[key]

    def _box(self, region: tuple[int, ...]) -> Box:
        boxes = [found[index] for found in self._boxes for index in region if index in found]
        if not boxes:
            return tuple(slice(0, 0) for _ in self.spacing_mm)
        sides = zip(*boxes, strict=True)
        return tuple(slice(max(0, min(s.start for s in side) - 1), max(s.stop for s in side) + 1) for side in sides)

    @cached_property
    def _boxes(self) -> tuple[dict[int, Box], ...]:
        return tuple(_boxes_of(array, self.confusion.indices) for array in self._arrays)


def _occurring(pairs: Confusion, ignore: int | None) -> tuple[tuple[int, ...], ...]:
    present = pairs.reference_voxels + pairs.prediction_voxels > 0
    return tuple((i,) for i, is_there in zip(pairs.indices, present, strict=True) if i not in (0, ignore) and is_there)


def _boxes_of(array: Labels, indices: tuple[int, ...]) -> dict[int, Box]:
    from scipy.ndimage import find_objects  # noqa: PLC0415 - takes long to load

    if indices[-1] < _MOST_BOXES:
        return {n: box for n, box in enumerate(find_objects(array, indices[-1]), 1) if box}
    places = np.searchsorted(indices, array)
    return {indices[n]: box for n, box in enumerate(find_objects(places, len(indices) - 1), 1) if box}


def _is_one_of(array: Labels, region: tuple[int, ...]) -> Mask:
    mask = np.asarray(array == region[0])
    for index in region[1:]:
        mask |= array == index
    return mask
