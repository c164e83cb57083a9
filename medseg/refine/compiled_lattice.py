"""The permutohedral lattice in compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.refine import lattice_kernels as kernels
from medseg.refine import lattice_points as points
from medseg.refine.lattice import USUAL, LatticeMode, kernel_mass, passes_of, step_bounds
from medseg.refine.threads import LANES, Floats, Gaussians, Team, team, zeros


class CompiledLattice:
    """`Lattice` in single precision on the CPU, both as an operator and for `compiled_mean_field`.

    Args:
        features: (d, pixels), every one divided by its sd.
        row: Length of the image's fastest axis.
        mode: See `Lattice`.
    """

    pixels_last = True

    def __init__(self, features: Float[Tensor, "d pixels"], row: int, mode: LatticeMode = USUAL) -> None:
        self._row, self._mode = row, mode
        d, pixels = features.shape
        stretch = mode.fineness * math.sqrt(2 / 3) * (d + 1) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
        lowest, strides = step_bounds(features, mode)
        steps = np.array([*strides, -sum(strides)], np.int64)
        origin = -sum(first * stride for first, stride in zip(lowest, strides, strict=True))
        self._indices = np.empty((pixels, d + 1), np.int32)
        self._weights = np.empty((pixels, d + 1), np.float32)
        places = features.contiguous().numpy()
        room = 1 << max(math.ceil(math.log2(pixels)) - 2, 10)
        while True:
            table = (np.full(2 * room, -1, np.int64), np.empty(2 * room, np.int32))
            vertices = np.empty(room, np.int64)
            count = points.embed_pixels(places, stretch, origin, steps, table, vertices, self._indices, self._weights)
            for _ in range(mode.dilations):
                count = points.dilate(steps, table, vertices, count) if count >= 0 else -1
            if count >= 0:
                break
            room *= 4
        self.vertices = int(count)
        self._neighbours = np.empty((d + 1, count, 2), np.int32)
        points.link_vertices(steps, table, vertices[:count], self._neighbours)
        del table, vertices
        self._scale = kernel_mass(d, mode.fineness)

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """As of `Lattice`."""
        return self._filter(x, passes_of(self._mode, backwards=False))

    def adjoint(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """As of `Lattice`."""
        return self._filter(x, passes_of(self._mode, backwards=True))

    def _filter(self, x: Tensor, passes: Iterable[bool]) -> Tensor:
        channels = x.shape[0]
        q = torch.nn.functional.pad(x.T, (0, -channels % LANES)).contiguous()
        with team() as workers:
            result = self._message(workers, q.numpy().reshape(-1), q.shape[1], passes)
        return torch.from_numpy(result).reshape(q.shape)[:, :channels].T

    def prepare(self, team: Team, weight: float) -> Floats:
        """See `Appearance`."""
        pixels = self._indices.shape[0]
        ones = np.zeros((pixels, LANES), np.float32)
        ones[:, 0] = 1
        forwards = passes_of(self._mode, backwards=False)
        mass = self._message(team, ones.reshape(-1), LANES, forwards)[::LANES]
        self._weights *= (1 / np.sqrt(np.maximum(mass, np.float32(1e-6))))[:, None]
        self._scale *= weight
        return self._message(team, ones.reshape(-1), LANES, forwards)[::LANES].copy()

    def begin(self, team: Team, q: Floats, channels: int) -> None:
        """See `Appearance`."""
        depth = q.size // self._indices.shape[0]
        self._cells = (zeros((self.vertices + 1) * depth), zeros((self.vertices + 1) * depth))
        self._splat(team, q, depth, self._cells[0])

    def update(self, team: Team, unary: Floats, q: Floats, gaussians: Gaussians, again: bool) -> None:
        """See `Appearance`."""
        depth = q.size // self._indices.shape[0]
        cells, free = self._blurred(team, self._cells, depth, passes_of(self._mode, backwards=False))

        def rows(part: Floats, first: int, last: int) -> None:
            kernels.refine_rows(cells, unary, q, depth, self._lattice(), gaussians[1], part, first, last)

        free.fill(0)
        target = free if again else free[:0]
        team.add_up(self._indices.shape[0] // self._row, target, lambda *_: slice(None), rows)
        self._cells = (free, cells)

    def _lattice(self) -> tuple[NDArray[np.int32], Floats, tuple[int, ...]]:
        return self._indices.reshape(-1), self._weights.reshape(-1), (0,) * self._indices.shape[1]

    def _message(self, team: Team, q: Floats, depth: int, passes: Iterable[bool]) -> Floats:
        cells = (zeros((self.vertices + 1) * depth), zeros((self.vertices + 1) * depth))
        self._splat(team, q, depth, cells[0])
        blurred, _ = self._blurred(team, cells, depth, passes)
        result = np.zeros_like(q)
        work = partial(kernels.slice_pixels, blurred, depth, *self._lattice(), result)
        team.share(self._indices.shape[0], work)
        return result

    def _splat(self, team: Team, q: Floats, depth: int, cells: Floats) -> None:
        def work(part: Floats, first: int, last: int) -> None:
            kernels.splat_pixels(q, depth, *self._lattice(), part, first, last)

        team.add_up(self._indices.shape[0], cells, lambda *_: slice(None), work)

    def _blurred(
        self, team: Team, both: tuple[Floats, ...], depth: int, passes: Iterable[bool]
    ) -> tuple[Floats, Floats]:
        """The first of two arrays of cells blurred, in one of them, and the other."""
        cells, other = both
        side = np.float32(self._mode.side_tap)
        for backwards in passes:
            for links in self._neighbours[::-1] if backwards else self._neighbours:
                work = partial(kernels.blur_vertices, cells, other, depth, links, side)
                team.share(self.vertices, work, cells.size)
                cells, other = other, cells
        cells *= np.float32(self._scale)
        return cells, other
