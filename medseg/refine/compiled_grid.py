"""The bilateral grid in compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.refine.gaussian_kernels import smooth_tiles, tile_count
from medseg.refine.grid import GridAxis
from medseg.refine.grid_kernels import refine_planes, slice_planes, splat_planes
from medseg.refine.threads import LANES, Floats, Gaussians, Team, zeros


class CompiledGrid:
    """`BilateralGrid` for `compiled_crf`.

    Args:
        image: (A, B, K) of float32.
        axes: Of A, B, K and the intensities, from `plan_grid`.
    """

    pixels_last = False

    def __init__(self, image: Float[Tensor, "A B K"], axes: Sequence[GridAxis]) -> None:
        self._axes = axes
        # A voxel reads the cell below and the one above it, so there are two at least; but B may be missing.
        a, k, v = (max(axes[n].cells, 2) for n in (0, 2, 3))
        b = axes[1].cells if image.shape[1] == 1 else max(axes[1].cells, 2)
        self._sizes = (a, b, k, v + -v % 4)  # rows of cells are whole vectors
        self._places = tuple(_places(n, axis) for n, axis in zip(image.shape, axes, strict=False))
        self._value: Floats = (
            ((image - image.amin()) / axes[3].cell).clamp_(0, max(axes[3].cells, 2) - 1.001).numpy().reshape(-1)
        )
        self._weight = np.ones_like(self._value)
        self._factor = 1.0
        self._grids: tuple[Floats, ...] = ()

    def prepare(self, team: Team, weight: float) -> Floats:
        """See `Appearance`."""
        ones = np.ones_like(self._value)
        mass = self._filtered(team, ones)
        np.maximum(mass, 1e-6, out=mass)
        np.sqrt(mass, out=mass)
        self._weight = np.reciprocal(mass, out=mass)
        self._factor = weight
        return self._filtered(team, ones)

    def begin(self, team: Team, q: Floats, channels: int) -> None:
        """See `Appearance`."""
        self._channels = channels
        self._grids = (self._empty(channels), self._empty(channels))
        self._splat(team, q, channels, self._grids[0])

    def update(self, team: Team, unary: Floats, q: Floats, gaussians: Gaussians, again: bool) -> None:
        """See `Appearance`."""
        channels, voxels = self._channels, self._voxels()
        grid, free = self._grids
        self._blur(team, grid)

        def planes(part: Floats, first: int, last: int) -> None:
            origin = self._places[0][0][first]
            refine_planes(grid, unary, q, channels, voxels, gaussians, part, origin, first, last)

        free.fill(0)
        self._add_up(team, free if again else free[:0], planes)
        self._grids = (free, grid)

    def _voxels(self) -> tuple[Floats, Floats, tuple[tuple[NDArray[np.int64], Floats], ...], tuple[int, ...]]:
        return self._weight, self._value, self._places, self._sizes

    def _empty(self, channels: int) -> Floats:
        return zeros(math.prod(self._sizes) * (channels + -channels % LANES))

    def _filtered(self, team: Team, x: Floats) -> Floats:
        grid = self._empty(1)
        self._splat(team, x, 1, grid)
        self._blur(team, grid)
        result, voxels = np.empty_like(x), self._voxels()
        team.share(self._places[0][0].size, lambda i, j: slice_planes(grid, voxels, result, i, j))
        return result

    def _splat(self, team: Team, q: Floats, channels: int, grid: Floats) -> None:
        voxels = self._voxels()

        def planes(part: Floats, first: int, last: int) -> None:
            splat_planes(q, channels, voxels, part, self._places[0][0][first], first, last)

        self._add_up(team, grid, planes)

    def _add_up(self, team: Team, grid: Floats, planes: Callable[[Floats, int, int], None]) -> None:
        """Let planes(part, first, last) add to the part of the grid that their voxels reach."""
        cells, size = self._places[0][0], grid.size // self._sizes[0]

        def reach(first: int, last: int) -> slice:
            return slice(int(cells[first]) * size, (int(cells[last - 1]) + 2) * size)

        team.add_up(cells.size, grid, reach, planes)

    def _blur(self, team: Team, grid: Floats) -> None:
        rows = grid.size // (self._sizes[3] * LANES)  # (A, B, K, blocks, V, 4)
        for axis, (size, plan) in enumerate(zip(self._sizes, self._axes, strict=True)):
            value = axis == len(self._sizes) - 1
            factor = np.float32(self._factor if value else 1)
            if plan.cells == 1:
                if value:
                    grid *= factor
                continue
            pre = rows if value else math.prod(self._sizes[:axis])
            post = grid.size // (pre * size)
            taps, ones = plan.taps.float().numpy() * factor, np.ones(size, np.float32)
            team.share(tile_count(pre, post), partial(smooth_tiles, grid, size, post, taps, ones), grid.size)


def _places(n: int, axis: GridAxis) -> tuple[NDArray[np.int64], Floats]:
    """The cell below every index of an image's axis, and the fraction above it."""
    position = np.arange(n) / axis.cell
    below = np.minimum(np.floor(position), max(axis.cells - 2, 0))
    return below.astype(np.int64), (position - below).astype(np.float32)
