"""The bilateral grid in compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.refine.grid import GridAxis
from medseg.refine.grid_kernels import blur_lines, slice_planes, splat_planes
from medseg.refine.lane_kernels import LANES
from medseg.refine.threads import Team

Floats: TypeAlias = NDArray[np.float32]

_NONE = np.empty(0, np.float32)


class CompiledGrid:
    """`BilateralGrid` for `compiled_mean_field`.

    Args:
        image: (A, B, K) of float32.
        axes: Of A, B, K and the intensities, from `plan_grid`.
    """

    pixels_last = False

    def __init__(self, image: Float[Tensor, "A B K"], axes: Sequence[GridAxis]) -> None:
        self._axes = axes
        # A voxel reads the cell below and the one above it, so there are two at least.
        self._sizes = tuple(max(axis.cells, 2) for axis in axes)
        self._places = tuple(_places(n, axis) for n, axis in zip(image.shape, axes, strict=False))
        self._value: Floats = (
            ((image - image.amin()) / axes[3].cell).clamp_(0, self._sizes[3] - 1.001).numpy().reshape(-1)
        )
        self._weight = np.ones_like(self._value)
        self._factor = 1.0

    def prepare(self, team: Team, weight: float) -> Floats:
        """See `Appearance`."""
        ones = np.ones_like(self._value)
        mass = self._filtered(team, ones)
        np.maximum(mass, 1e-6, out=mass)
        np.sqrt(mass, out=mass)
        self._weight = np.reciprocal(mass, out=mass)
        self._factor = weight
        return self._filtered(team, ones)

    def update(self, team: Team, unary: Floats, message: Floats, q: Floats) -> None:
        """See `Appearance`."""
        channels = q.size // self._value.size
        grid = self._blurred(team, q, channels)
        team.share(self._places[0][0].size, lambda i, j: self._slice(grid, channels, message, unary, q, i, j))

    def _filtered(self, team: Team, x: Floats) -> Floats:
        grid = self._blurred(team, x, 1)
        result = np.zeros_like(x)
        team.share(self._places[0][0].size, lambda i, j: self._slice(grid, 1, result, _NONE, x, i, j))
        return result

    def _slice(  # noqa: PLR0917 - the last two are the span of a thread
        self, grid: Floats, channels: int, message: Floats, unary: Floats, q: Floats, i: int, j: int
    ) -> None:
        slice_planes(grid, channels, self._weight, self._value, self._places, self._sizes, message, unary, q, i, j)

    def _blurred(self, team: Team, q: Floats, channels: int) -> Floats:
        depth = channels + -channels % LANES
        grid = self._splat(team, q, channels, depth)
        other = np.empty_like(grid)
        for axis, (size, plan) in enumerate(zip(self._sizes, self._axes, strict=True)):
            if plan.cells == 1:
                continue
            taps = plan.taps.float().numpy() * np.float32(self._factor if axis == len(self._sizes) - 1 else 1)
            pre, post = math.prod(self._sizes[:axis]), math.prod(self._sizes[axis + 1 :]) * depth
            self._blur(team, grid, other, (pre, size, post), taps)
            grid, other = other, grid
        if self._axes[-1].cells == 1:
            grid *= np.float32(self._factor)
        return grid

    def _blur(self, team: Team, grid: Floats, other: Floats, sizes: tuple[int, int, int], taps: Floats) -> None:
        pre, n, post = sizes
        if pre >= 4 * team.size:  # whole lines for every thread, else a part of every line
            size = n * post

            def lines(i: int, j: int) -> None:
                blur_lines(grid[i * size : j * size], other[i * size : j * size], j - i, n, post, taps, 0, size)

            team.share(pre, lines)
        else:
            team.share(n * post, lambda i, j: blur_lines(grid, other, pre, n, post, taps, i, j))

    def _splat(self, team: Team, q: Floats, channels: int, depth: int) -> Floats:
        cells = self._places[0][0]
        plane = math.prod(self._sizes[1:]) * depth
        grid = np.zeros(self._sizes[0] * plane, np.float32)
        parts: dict[int, Floats] = {}

        def work(first: int, last: int) -> None:
            origin, end = int(cells[first]), int(cells[last - 1]) + 2
            # Threads meet in the cells at their border, so all but the first have a part of their own.
            part = grid[origin * plane :] if first == 0 else np.zeros((end - origin) * plane, np.float32)
            splat_planes(q, channels, self._weight, self._value, self._places, self._sizes, part, origin, first, last)
            if first > 0:
                parts[origin] = part

        team.share(cells.size, work)
        for origin, part in sorted(parts.items()):
            grid[origin * plane : origin * plane + part.size] += part
        return grid


def _places(n: int, axis: GridAxis) -> tuple[NDArray[np.int64], Floats]:
    """The cell below every index of an image's axis, and the fraction above it."""
    position = np.arange(n) / axis.cell
    below = np.minimum(np.floor(position), max(axis.cells - 2, 0))
    return below.astype(np.int64), (position - below).astype(np.float32)
