"""The planes that a later window can still touch."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import suppress
from tempfile import TemporaryFile

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.geometry import Shape
from medseg.inference.planes import empty_planes
from medseg.inference.windows import Sweep

# Shared memory, which is what there is by default, has no huge pages.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class Ring:
    """Weighted sums of scores, as deep along the axis of the sweep as a window.

    In memory the axes are in the window's own order, so that a window is added along whole lines; plane n of the volume
    lies at place n modulo the depth, so nothing moves when planes leave.

    Args:
        shape: Voxels (I, J, K) of the volume.
        like: Scores of windows (b, channels, i, j, k): as many channels, last in memory where they are.
        sweep: The windows.
        weights: Of a window's voxels, (i, j, k).
        spill: Whether the sums are kept in a temporary file.
    """

    def __init__(
        self,
        shape: Shape,
        like: Float[Tensor, "b channels i j k"],
        sweep: Sweep,
        weights: Float[Tensor, "i j k"],
        *,
        spill: bool = False,
    ) -> None:
        self.shape, self.sweep, self.weights = shape, sweep, weights
        self._own_weights: NDArray[np.float32] = weights.cpu().numpy()
        extent = sweep.ring_shape(shape)
        self.depth = extent[sweep.axis]
        self.origin = [min(positions[0], 0) for positions in sweep.starts]
        channels = like.shape[1]
        self.pages: mmap.mmap | None = None
        if weights.device.type == "cpu":
            self.pages = _pages(4 * channels * math.prod(extent), spill=spill)
            flat = torch.frombuffer(self.pages, dtype=torch.float32)
        else:
            flat = weights.new_zeros(channels * math.prod(extent))
        self.is_spilt = spill and self.pages is not None
        is_last = channels > 1 and like.stride(1) == 1
        self.sums = flat.view(*extent, channels).movedim(-1, 0) if is_last else flat.view(channels, *extent)
        self.first = sweep.stops[0]  # the first plane that has not left

    def add(self, scores: Float[Tensor, "channels i j k"], start: Shape) -> None:
        """Add one window's scores, weighted."""
        axis = 1 + self.sweep.axis
        where = [slice(s - o, s - o + n) for s, o, n in zip(start, self.origin, self.sweep.size, strict=True)]
        begin = start[self.sweep.axis]
        for window_planes, ring_planes in self._places(begin, begin + self.depth):
            where[self.sweep.axis] = ring_planes
            taken = slice(window_planes.start - begin, window_planes.stop - begin)
            self.sums[:, *where].addcmul_(_along(scores, axis, taken), _along(self.weights[None], axis, taken))
        if self.is_spilt and self.pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)  # they stay in the file

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
                here = list(inside)
                here[self.sweep.axis] = slice(None)
                sums = self.sums[:, *inside]
                averages = empty_planes(sums, len(sums), sums.shape[1:], self.sweep.axis)
                yield volume_planes.start, torch.div(sums, self._weight_of(volume_planes)[*here], out=averages)
                del averages
        for _, ring_planes in self._places(self.first, stop):
            _along(self.sums, 1 + self.sweep.axis, ring_planes).zero_()
        self.first = stop

    def _weight_of(self, planes: slice) -> Float[Tensor, "i j k"]:
        """The weights of all windows that touch some planes, added up: axis by axis, as windows lie on a grid.

        By NumPy: so little work takes torch's threads longer to share than to do, much longer on a busy machine.
        """
        axis, size = self.sweep.axis, self.sweep.size
        extent = list(self.sums.shape[1:])
        extent[axis] = planes.stop - planes.start
        total = np.zeros(extent, dtype=np.float32)
        for start in self.sweep.stops:
            begin, stop = max(planes.start, start), min(planes.stop, start + size[axis])
            if begin >= stop:
                continue
            weight = _part(self._own_weights, axis, begin - start, stop - start)
            for a in (a for a in range(3) if a != axis):
                line = np.zeros((*weight.shape[:a], extent[a], *weight.shape[a + 1 :]), dtype=np.float32)
                for position in self.sweep.starts[a]:
                    first = position - self.origin[a]
                    here = _part(line, a, first, first + size[a])
                    here += weight
                weight = line
            here = _part(total, axis, begin - planes.start, stop - planes.start)
            here += weight
        return torch.from_numpy(total).to(self.weights.device)

    def _places(self, begin: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Consecutive planes of the volume, and where they lie in the ring: one span, or two where it begins anew."""
        while begin < stop:
            place = begin % self.depth
            count = min(stop - begin, self.depth - place)
            yield slice(begin, begin + count), slice(place, place + count)
            begin += count


def _pages(size: int, *, spill: bool) -> mmap.mmap:
    """Zeroed memory of its own, so that what is freed around it stays in one piece; or of a file that nobody sees."""
    if spill:
        with TemporaryFile() as file:
            file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    pages = mmap.mmap(-1, size, **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _part(array: NDArray[np.float32], axis: int, begin: int, stop: int) -> NDArray[np.float32]:
    return array[(slice(None),) * axis + (slice(begin, stop),)]


def _along(tensor: Tensor, axis: int, planes: slice) -> Tensor:
    return tensor.narrow(axis, planes.start, planes.stop - planes.start)
