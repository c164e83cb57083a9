"""The planes that a later window can still touch."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from medseg.geometry import Shape
from medseg.inference.windows import Sweep


class Ring:
    """Weighted sums of scores, and the weights, as deep along the axis of the sweep as a window.

    In memory the axes are in the window's own order, so that a window is added along whole lines; plane n of the volume
    lies at place n modulo the depth, so nothing moves when planes leave.

    Args:
        shape: Voxels (I, J, K) of the volume.
        channels: Of the scores.
        sweep: The windows.
        weights: Of a window's voxels, (i, j, k).
    """

    def __init__(self, shape: Shape, channels: int, sweep: Sweep, weights: Float[Tensor, "i j k"]) -> None:
        self.shape, self.sweep, self.weights = shape, sweep, weights
        extent = [max(n, size) for n, size in zip(shape, sweep.size, strict=True)]
        self.depth = extent[sweep.axis] = sweep.size[sweep.axis]
        self.origin = [min(positions[0], 0) for positions in sweep.starts]
        self.sums = weights.new_zeros(channels, *extent)
        self.total_weight = weights.new_zeros(1, *extent)
        self.first = sweep.stops[0]  # the first plane that has not left

    def add(self, scores: Float[Tensor, "channels i j k"], start: Shape) -> None:
        """Add one window's scores, weighted."""
        axis = 1 + self.sweep.axis
        where = [slice(s - o, s - o + n) for s, o, n in zip(start, self.origin, self.sweep.size, strict=True)]
        begin = start[self.sweep.axis]
        for window_planes, ring_planes in self._places(begin, begin + self.depth):
            where[self.sweep.axis] = ring_planes
            taken = slice(window_planes.start - begin, window_planes.stop - begin)
            weights = _along(self.weights[None], axis, taken)
            self.sums[:, *where].addcmul_(_along(scores, axis, taken), weights)
            self.total_weight[:, *where].add_(weights)

    def leave(self, following: int | None, planes: int) -> Iterator[tuple[int, Float[Tensor, "channels i j k"]]]:
        """The averages of all planes before `following` (of all that are left where it is None), and make room.

        Args:
            following: Where the next windows begin along the axis of the sweep.
            planes: How many leave at once, at most.

        Yields:
            The index of the first plane, and the averages; planes of padding never leave.
        """
        last = self.shape[self.sweep.axis]
        stop = self.first + self.depth if following is None else following
        inside = [slice(-o, -o + n) for o, n in zip(self.origin, self.shape, strict=True)]
        for begin in range(max(self.first, 0), min(stop, last), planes):
            for volume_planes, ring_planes in self._places(begin, min(begin + planes, stop, last)):
                inside[self.sweep.axis] = ring_planes
                yield volume_planes.start, self.sums[:, *inside] / self.total_weight[:, *inside]
        for _, ring_planes in self._places(self.first, stop):
            for buffer in (self.sums, self.total_weight):
                _along(buffer, 1 + self.sweep.axis, ring_planes).zero_()
        self.first = stop

    def _places(self, begin: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Consecutive planes of the volume, and where they lie in the ring: one span, or two where it begins anew."""
        while begin < stop:
            place = begin % self.depth
            count = min(stop - begin, self.depth - place)
            yield slice(begin, begin + count), slice(place, place + count)
            begin += count


def _along(tensor: Tensor, axis: int, planes: slice) -> Tensor:
    return tensor.narrow(axis, planes.start, planes.stop - planes.start)
