"""The permutohedral lattice in compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.refine import lattice_kernels as kernels
from medseg.refine.lane_kernels import LANES
from medseg.refine.lattice import USUAL, LatticeMode, kernel_mass, passes_of, step_bounds
from medseg.refine.threads import Team, team

Floats: TypeAlias = NDArray[np.float32]


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
        self._indices = np.empty((pixels, d + 1), np.int32)
        self._weights = np.empty((pixels, d + 1), np.float32)
        places = np.ascontiguousarray(features.double().numpy())
        room = 1 << 14
        while True:
            table = (np.full(4 * room, -1, np.int64), np.empty(4 * room, np.int32))
            vertices = np.empty(room, np.int64)
            count = kernels.embed_pixels(
                places, stretch, np.array(lowest), np.array(strides), table, vertices, self._indices, self._weights
            )
            for _ in range(mode.dilations):
                count = kernels.dilate(steps, table, vertices, count) if count >= 0 else -1
            if count >= 0:
                break
            room *= 4
        self.vertices = int(count)
        self._neighbours = np.empty((d + 1, count, 2), np.int32)
        kernels.link_vertices(steps, table, vertices[:count], self._neighbours)
        del table, vertices
        self._starts = np.zeros(count + 1, np.int64)
        self._pixel = np.empty(pixels * (d + 1), np.int32)
        self._pixel_weight = np.empty(pixels * (d + 1), np.float32)
        kernels.transpose(self._indices, self._weights, self._starts, self._pixel, self._pixel_weight)
        self._weights *= np.float32(kernel_mass(d, mode.fineness))

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
        scale = 1 / np.sqrt(np.maximum(mass, np.float32(1e-6)))
        self._weights *= np.float32(weight) * scale[:, None]
        self._pixel_weight *= scale[self._pixel]
        return self._message(team, ones.reshape(-1), LANES, forwards)[::LANES].copy()

    def update(self, team: Team, unary: Floats, message: Floats, q: Floats) -> None:
        """See `Appearance`."""
        pixels = self._indices.shape[0]
        depth, channels = q.size // pixels, unary.size // pixels
        cells = self._blurred(team, q, depth, passes_of(self._mode, backwards=False))
        row = self._row

        def rows(first: int, last: int) -> None:
            kernels.slice_pixels(cells, depth, self._indices, self._weights, message, first * row, last * row)
            kernels.update_pixels(unary, message, q, channels, depth, row, first, last)

        team.share(pixels // row, rows)

    def _message(self, team: Team, q: Floats, depth: int, passes: Iterable[bool]) -> Floats:
        cells = self._blurred(team, q, depth, passes)
        result = np.zeros_like(q)
        work = partial(kernels.slice_pixels, cells, depth, self._indices, self._weights, result)
        team.share(self._indices.shape[0], work)
        return result

    def _blurred(self, team: Team, q: Floats, depth: int, passes: Iterable[bool]) -> Floats:
        cells, other = np.zeros((2, (self.vertices + 1) * depth), np.float32)

        def splat(first: int, last: int) -> None:
            # Threads share the entries evenly, not the vertices.
            begin, end = np.searchsorted(self._starts[:-1], (first, last)).tolist()
            kernels.splat_vertices(q, depth, self._starts, self._pixel, self._pixel_weight, cells, begin, end)

        team.share(self._pixel.size, splat)
        side = np.float32(self._mode.side_tap)
        for backwards in passes:
            for links in self._neighbours[::-1] if backwards else self._neighbours:
                team.share(self.vertices, partial(kernels.blur_vertices, cells, other, depth, links, side))
                cells, other = other, cells
        return cells
