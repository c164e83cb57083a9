"""Voxels with their place in the patient: scans, segmentations, and the slabs that stream between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.study import Finding, SourcePlane

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan.

    Attributes:
        array: Intensities (C, I, J, K), integer or float; a 2D image has K = 1.
        geometry: Where the voxels lie.
        modality: DICOM modality ("CT", "MR", ...) or None where the file does not say.
        findings: Doubts and repairs that came with reading it.
        sources: The planes that it was made of, in order; () where the file's grid is the volume's. A repaired scan
            has other planes than these: `Segmentation.on(plane.geometry)` brings labels back to them.

    Raises:
        GeometryError: If the array's shape is not (C, *geometry.shape).
    """

    array: NDArray[Any]
    geometry: Geometry
    modality: str | None = None
    findings: tuple[Finding, ...] = ()
    sources: tuple[SourcePlane, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise GeometryError(f"Array has shape {self.array.shape}, expected (C, {self.geometry.shape}).")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label for every voxel.

    Attributes:
        array: Label indices (I, J, K), an integer type; 0 is background.
        geometry: Where the voxels lie.
        labels: What the indices mean; None where a file does not say.
        findings: Doubts and repairs of the scan and of the segmentation.

    Raises:
        GeometryError: If the array's shape is not geometry.shape.
    """

    array: NDArray[np.integer[Any]]
    geometry: Geometry
    labels: LabelSet | None = None
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(f"Labels have shape {self.array.shape}, expected {self.geometry.shape}.")

    def on(self, geometry: Geometry) -> NDArray[np.integer[Any]]:
        """The label nearest to every voxel of another grid, plane by plane; background outside this one.

        Args:
            geometry: Any grid, such as a `SourcePlane`'s.

        Returns:
            Labels with the grid's shape.
        """
        result = np.zeros(geometry.shape, dtype=self.array.dtype)
        mapping = geometry.index_map(self.geometry)
        for k in range(geometry.shape[2]):
            result[:, :, k] = self.plane(mapping[:3, 3] + k * mapping[:3, 2], mapping[:3, :2], geometry.shape[:2])
        return result

    def plane(
        self, first: NDArray[np.float64], steps: NDArray[np.float64], shape: tuple[int, int]
    ) -> NDArray[np.integer[Any]]:
        """The label nearest to every point of a plane; background outside this grid.

        Args:
            first: The plane's first point in voxels of this grid, (3,).
            steps: From a point to the next one along the plane's two axes, in voxels of this grid, (3, 2).
            shape: Points along the plane's two axes.

        Returns:
            Labels with the plane's shape.
        """
        rows, columns = np.arange(shape[0])[:, np.newaxis], np.arange(shape[1])
        inside = np.ones(shape, dtype=bool)
        nearest = []
        for axis, size in enumerate(self.array.shape):
            at = first[axis] + steps[axis, 0] * rows + steps[axis, 1] * columns
            index = np.floor(at + (0.5 - 1e-6)).astype(np.intp)  # half way between two voxels: the lower one
            inside &= (index >= 0) & (index < size)
            nearest.append(index)
        labels = np.zeros(shape, dtype=self.array.dtype)
        if inside.all():
            labels[...] = self.array[tuple(nearest)]
        else:
            labels[inside] = self.array[tuple(index[inside] for index in nearest)]
        return labels


@dataclass(frozen=True, eq=False)
class Slab:
    """Consecutive complete planes of class scores, on their way from the network to the labels.

    Attributes:
        scores: (classes, I, J, K) with only this slab's planes along `axis`.
        axis: The axis (0, 1 or 2) along which slabs follow one another.
        start: Index of the slab's first plane along `axis`.
        are_probabilities: Whether the scores are probabilities; otherwise they are logits.
        head: A linear layer that is still to be applied; the scores are then what it takes, (features, I, J, K).
    """

    scores: torch.Tensor
    axis: int
    start: int
    are_probabilities: bool = False
    head: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def finished(self) -> Slab:
        """The slab with class scores for certain."""
        if self.head is None:
            return self
        return Slab(self.head(self.scores), self.axis, self.start, self.are_probabilities)

    @property
    def stop(self) -> int:
        """One past the index of the last plane."""
        return self.start + int(self.scores.shape[1 + self.axis])

    @property
    def probabilities(self) -> torch.Tensor:
        """(classes, I, J, K), summing to one over the classes."""
        return self.scores if self.are_probabilities else self.scores.softmax(dim=0)


@dataclass(frozen=True, eq=False)
class LabelSlab:
    """Consecutive complete planes of the classes of highest score.

    Attributes:
        classes: (I, J, K) with only this slab's planes along `axis`; 0 is background.
        axis: The axis (0, 1 or 2) along which slabs follow one another.
        start: Index of the slab's first plane along `axis`.
    """

    classes: NDArray[np.integer[Any]]
    axis: int
    start: int

    @property
    def stop(self) -> int:
        """One past the index of the last plane."""
        return self.start + int(self.classes.shape[self.axis])
