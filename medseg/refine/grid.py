"""The appearance kernel of an image with one channel: a dense bilateral grid (Paris and Durand; Chen et al. 2007)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.refine.gaussian import toeplitz
from medseg.refine.operators import Interpolation

# Cell sizes in sd. Linear interpolation blurs by 1/3 cell² (splat and slice together), which the blur leaves out; what
# then remains of the error shrinks with the fourth power of the cell. A grid for a small spatial sd has many cells.
_FINE_CELL, _CELL, _CELL_OF_SMALL_SD = 0.5, 0.67, 0.82
_SMALL_SD_VOXELS = 5.5
_FEW_CELLS = 50_000  # so many are nothing to blur: a grid that has no more is fine
# A grid of more than this many cells per pixel is mostly empty: a sparse lattice serves better.
_MOST_CELLS_PER_PIXEL = 4
_CELLS_AT_LEAST = 200_000
# Spatial sd in voxels under which a cell is one voxel: nothing is interpolated and the kernel is exact.
_VOXELWISE_UNDER = 1.5
_REACH_SD = 4.0


@dataclass(frozen=True, eq=False)
class GridAxis:
    """One axis of the grid.

    Attributes:
        cell: Length of a cell in voxels, or in intensity on the axis of intensities.
        cells: How many there are.
        taps: The blur at distance 0, 1, … cells.
    """

    cell: float
    cells: int
    taps: Float[Tensor, " taps"]


def plan_grid(
    shape: Sequence[int], sd_voxels: Sequence[float], extent: float, sd_value: float
) -> list[GridAxis] | None:
    """The axes of the grid for an image whose intensities span `extent`, or None where it would be mostly empty.

    Args:
        shape: Of the image.
        sd_voxels: Spatial sd along every axis, in voxels of that axis.
        extent: Largest less smallest intensity.
        sd_value: Sd in intensities.
    """
    usual = _CELL_OF_SMALL_SD if min(sd_voxels) < _SMALL_SD_VOXELS else _CELL
    for size in (_FINE_CELL, usual):
        axes = [_spatial_axis(n, sd, size) for n, sd in zip(shape, sd_voxels, strict=True)]
        axes.append(_value_axis(extent, sd_value, size))
        cells = math.prod(axis.cells for axis in axes)
        if cells <= _FEW_CELLS:
            break
    return axes if cells <= max(_CELLS_AT_LEAST, _MOST_CELLS_PER_PIXEL * math.prod(shape)) else None


def _spatial_axis(voxels: int, sd_voxels: float, size: float) -> GridAxis:
    if voxels == 1:
        return GridAxis(1.0, 1, torch.ones(1, dtype=torch.float64))
    if sd_voxels < _VOXELWISE_UNDER:
        return GridAxis(1.0, voxels, _taps(sd_voxels**2, voxels, total=None))
    return _interpolated_axis(float(voxels - 1), sd_voxels, size)


def _value_axis(extent: float, sd_value: float, size: float) -> GridAxis:
    if extent <= 1e-6 * sd_value:
        return GridAxis(sd_value, 1, torch.ones(1, dtype=torch.float64))
    return _interpolated_axis(extent, sd_value, size)


def _interpolated_axis(extent: float, sd: float, size: float) -> GridAxis:
    cells = math.floor(extent / (size * sd)) + 2
    return GridAxis(size * sd, cells, _taps(size**-2 - 1 / 3, cells, total=math.sqrt(2 * math.pi) / size))


def _taps(variance: float, cells: int, total: float | None) -> Float[Tensor, " taps"]:
    """A Gaussian over cells whose taps sum to `total`, so that splat, blur and slice have the kernel's own mass."""
    sd = math.sqrt(variance)
    reach = max(math.ceil(_REACH_SD * sd), 1)
    taps = torch.exp(-0.5 * (torch.arange(reach + 1, dtype=torch.float64) / sd) ** 2)
    if total is not None:
        taps *= total / (2 * taps.sum() - taps[0])
    return taps[:cells]


class BilateralGrid:
    """K(i, j) = exp(-|p_i - p_j|²/2sd² - (v_i - v_j)²/2sd_v²), as a Gaussian on a coarse grid over space and value.

    All pixels of an index share their place along its axis. So a sparse matrix interpolates along the last spatial axis
    and in value, line by line, and small dense ones along the other axes, together with their blur.

    Args:
        image: (1, *space), float.
        axes: From `plan_grid`.
    """

    def __init__(self, image: Float[Tensor, "1 ..."], axes: Sequence[GridAxis]) -> None:
        shape = image.shape[1:]
        lines = [GridAxis(1.0, n, torch.ones(1)) for n in shape[:-1]]
        self._interpolation = _interpolation(image[0] - image.amin(), [*lines, *axes[-2:]])
        blurs = [toeplitz(a.taps, a.cells, a.cells) for a in axes]
        # Matrices along every axis of what comes from the lines and of what goes back to them.
        reads = [_reading(n, a) for n, a in zip(shape[:-1], axes, strict=False)]
        inwards = [blur @ read.T for blur, read in zip(blurs, reads, strict=False)]
        self._inwards = [m.to(image) for m in (*inwards, *blurs[-2:])]
        self._outwards = [m.to(image) for m in reads]

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """Splat, blur along every axis, slice."""
        cells = self._interpolation.splat(x.T.contiguous())
        channels = x.shape[0]
        sizes = [m.shape[1] for m in self._inwards]
        for matrices in (self._inwards, self._outwards):
            for axis, matrix in enumerate(matrices):
                cells = matrix @ cells.reshape(math.prod(sizes[:axis]), sizes[axis], -1)
                sizes[axis] = matrix.shape[0]
        return self._interpolation.slice(cells.reshape(-1, channels)).T

    adjoint = apply  # every blur is symmetric, they commute, and slicing is the transpose of splatting


def _reading(n: int, axis: GridAxis) -> Float[Tensor, "n cells"]:
    """The matrix that interpolates cells at every index of an image's axis."""
    position = torch.arange(n, dtype=torch.float64) / axis.cell
    return (1 - (position[:, None] - torch.arange(axis.cells)).abs()).clamp_min(0)


def _interpolation(values: Float[Tensor, "*space"], axes: Sequence[GridAxis]) -> Interpolation:
    positions = [
        torch.arange(n, dtype=torch.float64, device=values.device) / a.cell
        for n, a in zip(values.shape, axes, strict=False)
    ]
    lower, upper = [], []
    for dim, (position, axis) in enumerate(zip(positions, axes, strict=False)):
        first = position.floor().clamp_max(axis.cells - 1)
        shape = [-1 if d == dim else 1 for d in range(values.ndim)]
        lower.append((first.long().reshape(shape), (1 - (position - first)).to(values.dtype).reshape(shape)))
        upper.append((position - first).to(values.dtype).reshape(shape))
    position = values / axes[-1].cell
    first = position.floor().clamp_max(max(axes[-1].cells - 2, 0))
    lower.append((first.long(), 1 - (position - first)))
    upper.append(position - first)
    # Corners that no pixel can reach (axes of one cell, cells of one voxel) are left out.
    choices = [(0,) if not bool((u > 0).any()) else (0, 1) for u in upper]
    indices, weights = [], []
    for corner in itertools.product(*choices):
        index = torch.zeros((), dtype=torch.long, device=values.device)
        weight = torch.ones((), dtype=values.dtype, device=values.device)
        for step, axis, (first, low), high in zip(corner, axes, lower, upper, strict=True):
            index = index * axis.cells + (first + step).clamp_max(axis.cells - 1)
            weight = weight * (high if step else low)
        indices.append(index.expand(values.shape).reshape(-1))
        weights.append(weight.expand(values.shape).reshape(-1))
    return Interpolation(torch.stack(indices, 1), torch.stack(weights, 1), math.prod(a.cells for a in axes))
