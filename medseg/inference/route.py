"""How planes of one grid are made from planes of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry

Interpolation: TypeAlias = Literal["linear", "nearest"]

# A voxel belongs to the source while its centre lies in the source's own voxels (half a voxel beyond the last
# centre); there the edge value holds, and beyond it is background. The rest is rounding.
REACH = 0.5 + 1e-3


class Route:
    """How indices of the target grid map to indices of the source, and along which axes planes flow.

    Attributes:
        mapping: 4x4, from indices of the target to fractional indices of the source.
        target_of: For each axis of the source, the axis of the target along which it changes fastest.
        target_axis: That of the axis along which slabs come.
        is_separable: Whether each axis of the source depends on that one alone.
    """

    def __init__(self, source: Geometry, to: Geometry, axis: int, interpolation: Interpolation) -> None:
        self.source, self.to, self.axis, self.interpolation = source, to, axis, interpolation
        self.mapping = to.index_map(source)
        # Voxels of the source that one axis of the target spans along each axis of the source.
        span = np.abs(self.mapping[:3, :3]) * np.array(to.shape)
        self.target_of = np.abs(self.mapping[:3, :3]).argmax(axis=1)
        self.target_axis = int(self.target_of[axis])
        span[np.arange(3), self.target_of] = 0
        self.is_separable = len(set(self.target_of.tolist())) == 3 and bool(span.max() < 1e-3)

    @property
    def planes(self) -> Iterator[tuple[int, int, int]]:
        """Planes of the target in the order in which they can be made, each with the lowest and highest it needs."""
        last = self.source.shape[self.axis] - 1
        needed = self._touched()
        backwards = self.mapping[self.axis, self.target_axis] < 0
        for plane in reversed(range(len(needed))) if backwards else range(len(needed)):
            low, high = needed[plane]
            if high >= -REACH and low <= last + REACH:
                lowest, highest = np.clip([np.floor(low), np.floor(high) + 1], 0, last).astype(int)
                yield plane, int(lowest), int(highest)

    def positions(self, a: int) -> NDArray[np.float64]:
        """Where along the source's axis a the voxels of the target's axis target_of[a] lie, if it is separable."""
        along = self.target_of[a]
        return np.asarray(self.mapping[a, along] * np.arange(self.to.shape[along]) + self.mapping[a, 3])

    def outside(self, a: int) -> NDArray[np.bool_]:
        """Which of these positions lie beyond the source."""
        positions = self.positions(a)
        return (positions < -REACH) | (positions > self.source.shape[a] - 1 + REACH)

    def _touched(self) -> NDArray[np.float64]:
        """(planes, 2): lowest and highest position along the source's axis that each plane of the target touches."""
        row = self.mapping[self.axis]
        along = row[self.target_axis] * np.arange(self.to.shape[self.target_axis]) + row[3]
        across = [row[a] * (self.to.shape[a] - 1) for a in range(3) if a != self.target_axis]
        low, high = sum(min(c, 0.0) for c in across), sum(max(c, 0.0) for c in across)
        return np.stack([along + low, along + high], axis=1)
