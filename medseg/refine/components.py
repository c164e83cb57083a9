"""Clean-up of connected components: small ones and all but the largest are removed, holes are filled.

Labels are held as runs, stretches of one label along the last axis, so memory grows with the surface of the structures
and not with the voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from medseg.geometry import Geometry
from medseg.refine.streaming import Refiner
from medseg.settings import Settings
from medseg.volume import Segmentation, Slab, Volume

Integers: TypeAlias = NDArray[np.int32]

_PLANES_PER_SLAB = 8


class ComponentSettings(Settings):
    """What is cleaned up, of every label but background, in this order.

    Attributes:
        min_volume_mm3: Components that are smaller become background.
        keep_largest: All but the largest component of a label become background.
        fill_holes: Background that is enclosed by one label, and does not reach the border, becomes that label.
        labels: Labels that are cleaned up; none means all.
    """

    min_volume_mm3: float = Field(0.0, ge=0, allow_inf_nan=False)
    keep_largest: bool = False
    fill_holes: bool = False
    labels: tuple[int, ...] = ()


def component_refiner(settings: ComponentSettings) -> Refiner:
    """A refiner for `pipeline.segment` that cleans up components; it belongs last.

    Which component is the largest is known only at the end, so all slabs are taken in, reduced to the runs of their
    most probable labels, before the first leaves. Those that leave hold ones and zeros: probabilities of what was
    decided. `settings.labels` are channels of the slabs.

    Args:
        settings: What to clean up.
    """

    def refine(slabs: Iterator[Slab], volume: Volume) -> Iterator[Slab]:
        runs: Runs | None = None
        classes, axis = 0, 0
        for slab in slabs:
            classes, axis = slab.scores.shape[0], slab.axis
            runs = runs or Runs.along(volume.geometry, axis)
            labels = slab.scores.argmax(dim=0).cpu().numpy()
            for offset, plane in enumerate(np.moveaxis(labels, axis, 0)):
                runs.add(slab.start + offset, plane)
        if runs is None:
            return
        clean(runs, settings, volume.geometry.voxel_volume_mm3)
        for first, last in _slabs(runs.numbers):
            labels = np.stack([runs.plane(index) for index in range(first, last)], axis=axis)
            scores = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), classes)
            yield Slab(scores.movedim(-1, 0).float(), axis, runs.numbers[first], are_probabilities=True)

    return refine


def clean_components(segmentation: Segmentation, settings: ComponentSettings) -> Segmentation:
    """A segmentation with its components cleaned up; `settings.labels` are label indices.

    Args:
        segmentation: Labels (I, J, K).
        settings: What to clean up.
    """
    runs = Runs.along(segmentation.geometry, axis=0)
    for number, plane in enumerate(segmentation.array):
        runs.add(number, plane)
    clean(runs, settings, segmentation.geometry.voxel_volume_mm3)
    array = np.empty_like(segmentation.array)
    for number in range(array.shape[0]):
        array[number] = runs.plane(number)
    return Segmentation(array, segmentation.geometry, segmentation.labels, segmentation.findings)


def _slabs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Spans of at most so many planes whose numbers are consecutive."""
    first = 0
    for index in range(1, len(numbers) + 1):
        ended = index == len(numbers) or numbers[index] != numbers[index - 1] + 1
        if ended or index - first == _PLANES_PER_SLAB:
            yield first, index
            first = index


class Runs:
    """Planes of labels as runs of equal labels along the planes' last axis.

    Args:
        shape: Of a plane.
        planes: How many the volume has.
    """

    def __init__(self, shape: tuple[int, int], planes: int) -> None:
        self.shape, self.planes = shape, planes
        self.numbers: list[int] = []
        self.starts: list[Integers] = []  # in the flattened plane
        self.labels: list[Integers] = []

    @classmethod
    def along(cls, geometry: Geometry, axis: int) -> Runs:
        """Without planes, for a volume that comes plane by plane along this axis."""
        rows, columns = (n for a, n in enumerate(geometry.shape) if a != axis)
        return cls((rows, columns), geometry.shape[axis])

    def add(self, number: int, plane: NDArray[Any]) -> None:
        """Append a plane, whose number is above all before."""
        changes = np.ones(self.shape, dtype=bool)
        changes[:, 1:] = plane[:, 1:] != plane[:, :-1]
        starts = np.flatnonzero(changes)
        self.numbers.append(number)
        self.starts.append(starts.astype(np.int32))
        self.labels.append(plane.reshape(-1)[starts].astype(np.int32))

    def plane(self, index: int) -> Integers:
        """The labels of the plane that was added as number `index`."""
        lengths = np.diff(self.starts[index], append=self.shape[0] * self.shape[1])
        return np.repeat(self.labels[index], lengths).reshape(self.shape)


def clean(runs: Runs, settings: ComponentSettings, voxel_volume_mm3: float) -> None:
    """Clean up in place.

    Args:
        runs: Of all planes.
        settings: What to clean up.
        voxel_volume_mm3: Of one voxel.
    """
    from medseg.refine.runs import Components  # noqa: PLC0415  # numba takes half a second to import

    components = Components(runs.starts, runs.labels, runs.numbers, runs.shape, runs.planes)
    if settings.min_volume_mm3 > 0 or settings.keep_largest:
        components.remove(settings.min_volume_mm3 / voxel_volume_mm3, settings.keep_largest, settings.labels)
    if settings.fill_holes:
        components.fill_holes(settings.labels)
    runs.labels = components.by_plane()
