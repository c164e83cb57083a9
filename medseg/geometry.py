"""Where voxels lie in the patient: the one description of a grid that every room shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.errors import GeometryError
from medseg.orientations import codes_of

Spacing: TypeAlias = tuple[float, float, float]
Shape: TypeAlias = tuple[int, int, int]

# Two affines count as one when no voxel centre moves by more than this share of a voxel.
SAME_GRID_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxel centres in world space.

    Attributes:
        shape: Number of voxels along the axes (I, J, K); a 2D image has K = 1.
        affine: 4x4 matrix from voxel indices (i, j, k) to RAS+ world coordinates in mm, at voxel centres.

    Raises:
        GeometryError: If the shape is empty, or the affine is not finite and invertible.
    """

    shape: Shape
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"Shape {shape} is not three positive sizes; an image needs at least one voxel.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"Affine {affine.tolist()} is not a finite 4x4 matrix; correct the header.")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(f"Affine ends in the row {affine[3].tolist()}, not in 0 0 0 1; correct the header.")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        # The determinant over the spacings is the volume of the box of unit axes: 1 when they are orthogonal.
        if lengths.min() <= 1e-6 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
            raise GeometryError(
                f"Affine has spacing {_brief(lengths)} mm and is singular: it does not span space; correct the header."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing_mm(self) -> Spacing:
        """Distance in mm between neighbouring voxel centres along I, J, K."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @cached_property
    def orientation(self) -> str:
        """Axis codes such as "RAS": the direction in which each index grows, to the nearest world axis."""
        return codes_of(self.affine)

    @cached_property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³ (a sheared grid's is smaller than the product of its spacings)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def extent_mm(self) -> Spacing:
        """Field of view in mm along I, J, K: voxels times spacing."""
        i, j, k = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return i, j, k

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes are perpendicular (no shear, as a tilted gantry gives)."""
        axes = self.affine[:3, :3] / np.asarray(self.spacing_mm)
        return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-3))

    def to_world(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Voxel indices (..., 3) to world coordinates (..., 3) in mm."""
        return np.asarray(indices, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxel(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """World coordinates (..., 3) in mm to fractional voxel indices (..., 3)."""
        return (np.asarray(points_mm, dtype=np.float64) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def index_map(self, target: Geometry) -> NDArray[np.float64]:
        """4x4 matrix from this grid's voxel indices to `target`'s (fractional) voxel indices."""
        return np.linalg.inv(target.affine) @ self.affine

    def matches(self, other: Geometry, tolerance: float = SAME_GRID_TOLERANCE) -> bool:
        """Whether both grids have the same shape and no voxel centre is further apart than `tolerance` voxels."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1).T
        apart_mm = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1)
        return bool(apart_mm.max() <= tolerance * min(self.spacing_mm))

    def __str__(self) -> str:
        return f"{' × '.join(map(str, self.shape))} voxels of {_brief(self.spacing_mm)} mm, {self.orientation}"


def _brief(lengths_mm: ArrayLike) -> str:
    return " × ".join(f"{length:.4g}" for length in np.asarray(lengths_mm))
