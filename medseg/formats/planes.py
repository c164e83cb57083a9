"""Parallel planes of labels that need not be evenly spaced, as DICOM slices are, and their way to and from a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.volume import Segmentation

Vector: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.integer[Any]]

_REGULAR = 0.02  # of the distance between planes: how far one may be from where a regular grid would have it
_ALIGNED = 0.05  # voxels: how far a voxel may be from that of another grid to count as the same one
_INTO_THE_PLANE = 0.1  # voxels: how far the corners of a plane of a grid may be from the plane of a contour


@dataclass(frozen=True, eq=False)
class Planes:
    """Where the voxels of parallel planes lie; labels on them are arrays (N, rows, columns).

    Attributes:
        origins_mm: World position (RAS+) of each plane's first voxel centre, (N, 3), in order.
        column_step_mm: From a voxel to that of the next column, (3,).
        row_step_mm: From a voxel to that of the next row, (3,).
        rows: Voxels along a column.
        columns: Voxels along a row.
        step_mm: The customary distance between neighbouring planes, which is also what a plane stands for.
    """

    origins_mm: Vector
    column_step_mm: Vector
    row_step_mm: Vector
    rows: int
    columns: int
    step_mm: float

    @classmethod
    def of(cls, geometry: Geometry) -> Planes:
        """The planes of a grid along K; labels (I, J, K) on the grid are `array.transpose(2, 1, 0)` on them."""
        affine = geometry.affine
        columns, rows, count = geometry.shape
        origins = affine[:3, 3] + np.outer(np.arange(count), affine[:3, 2])
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        step_mm = abs(float(normal @ affine[:3, 2])) / float(np.linalg.norm(normal))
        return cls(origins, affine[:3, 0], affine[:3, 1], rows, columns, step_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the labels, (N, rows, columns)."""
        return len(self.origins_mm), self.rows, self.columns

    @cached_property
    def normal(self) -> Vector:
        """Unit vector perpendicular to the planes, towards the last of them."""
        normal = np.cross(self.column_step_mm, self.row_step_mm)
        backwards = normal @ (self.origins_mm[-1] - self.origins_mm[0]) < 0
        return np.asarray((-normal if backwards else normal) / np.linalg.norm(normal))

    @cached_property
    def along_mm(self) -> Vector:
        """Position of each plane along the normal, (N,)."""
        return self.origins_mm @ self.normal

    @cached_property
    def voxel_volume_mm3(self) -> float:
        """What one voxel of a plane stands for."""
        return float(np.linalg.norm(np.cross(self.column_step_mm, self.row_step_mm))) * self.step_mm

    @cached_property
    def to_pixel(self) -> Vector:
        """Matrix (2, 3) from an offset from a plane's origin in mm to (column, row)."""
        return np.linalg.pinv(np.column_stack((self.column_step_mm, self.row_step_mm)))

    def nearest(self, along_mm: Vector) -> NDArray[np.intp]:
        """The plane that is nearest to each position along the normal."""
        middles = (self.along_mm[1:] + self.along_mm[:-1]) / 2
        return np.searchsorted(middles, along_mm)

    def grid(self) -> tuple[Geometry, NDArray[np.intp]]:
        """The regular grid on which all planes lie, gaps filled with empty places, and the place K of each plane.

        Raises:
            GeometryError: If the planes lie on no regular grid.
        """
        places = np.rint((self.along_mm - self.along_mm[0]) / self.step_mm).astype(np.intp)
        first, step = self.origins_mm[0], self.normal * self.step_mm
        if places[-1] > 0:
            step, first = np.polyfit(places, self.origins_mm, 1)
        apart = np.linalg.norm(first + np.outer(places, step) - self.origins_mm, axis=1).max()
        if len(set(places.tolist())) < len(places) or apart > max(_REGULAR * self.step_mm, 1e-2):
            raise GeometryError(
                f"The {len(places)} planes lie up to {apart:.3g} mm off a regular grid of {self.step_mm:.4g} mm;"
                " give the series that they were drawn on."
            )
        affine = np.eye(4)
        affine[:3] = np.column_stack((self.column_step_mm, self.row_step_mm, step, first))
        return Geometry((self.columns, self.rows, int(places[-1]) + 1), affine), places


def sample(segmentation: Segmentation, planes: Planes) -> Labels:
    """Labels (N, rows, columns) on planes, each voxel from the nearest one of the grid; 0 beyond the grid's edge."""
    geometry = segmentation.geometry
    inverse = np.linalg.inv(geometry.affine)[:3, :3]
    steps = np.column_stack((inverse @ planes.row_step_mm, inverse @ planes.column_step_mm))
    labels = np.zeros(planes.shape, segmentation.array.dtype)
    for number, origin in enumerate(geometry.to_voxel(planes.origins_mm)):
        labels[number] = segmentation.plane(origin, steps, planes.shape[1:])
    return labels


def spread(labels: Labels, planes: Planes, onto: Geometry) -> Labels:
    """Labels (I, J, K) on a grid, each voxel from the nearest one of the planes; 0 further than half a step away."""
    array = np.zeros(onto.shape, labels.dtype)
    for k in range(onto.shape[2]):
        i, j = np.arange(onto.shape[0])[:, np.newaxis, np.newaxis], np.arange(onto.shape[1])[:, np.newaxis]
        points = onto.affine[:3, 3] + k * onto.affine[:3, 2] + i * onto.affine[:3, 0] + j * onto.affine[:3, 1]
        along = points @ planes.normal
        if along.min() > planes.along_mm[-1] + planes.step_mm or along.max() < planes.along_mm[0] - planes.step_mm:
            continue
        nearest = planes.nearest(along)
        near = np.abs(along - planes.along_mm[nearest]) <= planes.step_mm * (0.5 + 1e-3)
        pixel = np.rint((points - planes.origins_mm[nearest]) @ planes.to_pixel.T).astype(np.intp)
        column, row = pixel[..., 0], pixel[..., 1]
        near &= (column >= 0) & (column < planes.columns) & (row >= 0) & (row < planes.rows)
        array[:, :, k][near] = labels[nearest[near], row[near], column[near]]
    return array


def aligned(planes: Planes, geometry: Geometry) -> bool:
    """Whether every voxel of the planes falls on one of the grid, so that nothing is resampled between them."""
    inverse = np.linalg.inv(geometry.affine)[:3, :3]
    steps = inverse @ np.column_stack((planes.column_step_mm, planes.row_step_mm))
    units = np.abs(np.rint(steps))
    drift = np.abs(steps - np.rint(steps)) * (planes.columns, planes.rows)
    origins = geometry.to_voxel(planes.origins_mm)
    is_permuted = np.array_equal(units.sum(axis=0), (1, 1)) and units.sum(axis=1).max() == 1
    return bool(is_permuted and drift.max() < _ALIGNED and np.abs(origins - np.rint(origins)).max() < _ALIGNED)


def layers(geometry: Geometry, normal: Vector) -> Iterator[tuple[int, Geometry]]:
    """The axes of a grid whose planes are perpendicular to `normal`, each with the grid seen so that it is K."""
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        columns = geometry.affine[:3, others]
        reach = np.abs(normal @ columns) * [geometry.shape[a] - 1 for a in others]
        if reach.sum() > _INTO_THE_PLANE * abs(float(normal @ geometry.affine[:3, axis])):
            continue
        i, j, k = (geometry.shape[a] for a in (*others, axis))
        yield axis, Geometry((i, j, k), geometry.affine[:, [*others, axis, 3]])
