"""The compiled way from slabs of scores to labels: on the CPU, where the axes of the two grids are parallel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.inference.export_kernels import between, settle
from medseg.inference.head import Head
from medseg.inference.route import Route
from medseg.refine.threads import Team, team
from medseg.volume import LabelSlab, Slab

_ROUNDING = 1e-5  # of a voxel: a point this close to a voxel lies on it

_Lines: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class _Plane:
    """A plane of the source: scores or features (U, V, channels), and the class of highest score (U, V)."""

    scores: NDArray[np.float32]
    classes: NDArray[np.uint16]


def export_compiled(slabs: Iterator[Slab], route: Route, head: Head | None) -> Iterator[LabelSlab]:
    """The classes of highest score on the target grid, one plane a slab.

    Args:
        slabs: Scores, or what the head takes, in single precision on the CPU.
        route: A separable one.
        head: That of the slabs.
    """
    across = [a for a in range(3) if a != route.axis]
    rows, columns = (_lines(route, a) for a in across)
    low, high, share = _lines(route, route.axis)
    swapped = route.target_of[across[0]] > route.target_of[across[1]]
    with team() as workers:
        planes = _planes(slabs, head, workers)
        held: dict[int, _Plane] = {}
        for plane, lowest, last in route.planes:
            while last not in held:
                index, made = next(planes)
                held[index] = made
            for index in [index for index in held if index < lowest]:
                del held[index]
            pair = held[int(low[plane])], held[int(high[plane])]
            classes, scores = (pair[0].classes, pair[1].classes), (pair[0].scores, pair[1].scores)
            layer = _layer(head, pair[0].scores.shape[-1])
            found = np.empty((len(rows[0]), len(columns[0])), dtype=np.uint16)
            workers.share(len(found), partial(between, classes, scores, share[plane], rows, columns, *layer, found))
            plane_classes = found.T if swapped else found
            yield LabelSlab(np.expand_dims(plane_classes, route.target_axis), route.target_axis, plane)
        for _ in planes:  # let the sweep finish, so that its progress reaches the end
            pass


def _planes(slabs: Iterator[Slab], head: Head | None, workers: Team) -> Iterator[tuple[int, _Plane]]:
    for slab in slabs:
        start = slab.start
        # (planes, U, V, channels), as they lie in memory but for networks that put the channels first.
        scores = np.ascontiguousarray(slab.scores.movedim(1 + slab.axis, 0).movedim(1, -1).numpy())
        del slab
        classes = np.empty(scores.shape[:3], dtype=np.uint16)
        workers.share(scores.shape[1], partial(settle, scores, *_layer(head, scores.shape[-1]), classes))
        yield from ((start + n, _Plane(*plane)) for n, plane in enumerate(zip(scores, classes, strict=True)))
        del scores, classes  # before the next windows need the memory


def _layer(head: Head | None, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The head as (classes, features) and (classes,); no features where the scores need none."""
    if head is None:
        return np.zeros((channels, 0), dtype=np.float32), np.zeros(channels, dtype=np.float32)
    return head.weight.numpy(), head.bias.numpy()


def _lines(route: Route, a: int) -> _Lines:
    """Between which places along the source's axis a the target's voxels lie (-1 beyond it), and the upper's share."""
    last = route.source.shape[a] - 1
    positions = np.clip(route.positions(a), 0, last)
    if route.interpolation == "nearest":
        positions = np.rint(positions)
    low = np.floor(positions + _ROUNDING)
    share = positions - low
    high = np.where(share > _ROUNDING, np.minimum(low + 1, last), low)
    low = np.where(route.outside(a), -1, low)
    return low.astype(np.int32), high.astype(np.int32), np.maximum(share, 0).astype(np.float32)
