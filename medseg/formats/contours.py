"""Masks to closed contours along the edges of their pixels, and contours back to masks.

A contour runs where two pixels meet, so it encloses exactly the area of its pixels and every pixel centre is half a
pixel away from it: rasterised again it gives the same mask, whatever the rounding of its points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]  # points (n, 2) as (column, row), at pixel centres whole numbers; the last joins the first
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Corners:
    """Where the edge of a mask turns, on the lattice of pixel corners: point (row, column) is the upper left corner.

    A corner at which two pixels meet diagonally is there twice, once for each of them, so that the edge of one
    4-connected piece never touches that of another.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    along_row: NDArray[np.intp]  # number of the corner at the other end of the horizontal edge
    along_column: NDArray[np.intp]  # and of the vertical edge


def trace(mask: Mask) -> list[Ring]:
    """One closed contour for each 4-connected piece of a mask (rows, columns).

    Holes are joined to the outer contour by a channel of no width (a keyhole), which every reader understands: those
    that fill what is enclosed, those that count crossings, and those that count windings.
    """
    from scipy import ndimage  # noqa: PLC0415 - takes long to load

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    pieces, count = ndimage.label(part)
    rings: dict[int, list[Ring]] = {number: [] for number in range(1, count + 1)}
    for ring in _loops(_corners(part)):
        begin = int(np.lexsort((ring[:, 0], ring[:, 1]))[0])  # its first point in reading order
        column, row = ring[begin].astype(int)
        is_hole = not part[row, column]
        turned = np.roll(ring, -begin, axis=0)
        if (_area(turned) < 0) != is_hole:
            turned = np.roll(turned[::-1], 1, axis=0)
        rings[int(pieces[row - 1, column] if is_hole else pieces[row, column])].append(turned)
    shift = np.array((left - 1.5, top - 1.5))  # corners lie half a pixel before centres; the padding is one pixel
    return [_keyholed(several, pieces == number) + shift for number, several in rings.items()]


def fill(ring: Ring, shape: tuple[int, int]) -> Mask:
    """Pixels (rows, columns) whose centres a contour encloses, by the even-odd rule."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    start, end = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    # An edge crosses the rows from its lower end up to, but without, its upper end: each corner counts once.
    first = np.clip(np.ceil(low), 0, shape[0]).astype(np.intp)
    stop = np.clip(np.ceil(high), 0, shape[0]).astype(np.intp)
    counts = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(ring)), counts)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    at = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
    np.add.at(crossings, (row, np.clip(np.ceil(at), 0, shape[1]).astype(np.intp)), 1)
    enclosed: Mask = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return enclosed


def combine(rings: Iterable[Ring], shape: tuple[int, int]) -> tuple[Mask, bool]:
    """What contours of one structure in one plane enclose together.

    A contour within another is a hole, one within a hole is an island, and contours side by side add up. Two that
    cross one another add up too, which is a guess; of two with the same pixels one is a copy.

    Returns:
        The mask (rows, columns), and whether contours cross one another.
    """
    together, crossed = np.zeros(shape, dtype=bool), False
    seen: set[tuple[int, int, bytes]] = set()
    for ring in sorted(rings, key=lambda one: abs(_area(one)), reverse=True):
        (left, top), (right, bottom) = np.clip(
            (np.floor(ring.min(axis=0)), np.ceil(ring.max(axis=0)) + 1), 0, shape[::-1]
        ).astype(int)
        if right <= left or bottom <= top:
            continue
        mask = fill(ring - (left, top), (bottom - top, right - left))
        before = len(seen)
        seen.add((left, top, np.packbits(mask).tobytes()))
        if len(seen) == before:
            continue
        part = together[top:bottom, left:right]
        shared = np.count_nonzero(mask & part)
        if shared and shared == np.count_nonzero(mask):
            part &= ~mask
        else:
            crossed = crossed or bool(shared)
            part |= mask
    return together, crossed


def _area(ring: Ring) -> float:
    """Enclosed area, negative where a ring runs the other way round."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _corners(part: Mask) -> _Corners:
    """The corners of a mask that has a margin of background, joined along rows and along columns.

    Along every line of the lattice edges begin and end in turn, so sorted corners pair up one by one.
    """
    a, b, c, d = part[:-1, :-1], part[:-1, 1:], part[1:, :-1], part[1:, 1:]  # pixels around a lattice point
    single = (a ^ b) ^ (c ^ d)
    falling, rising = a & d & ~b & ~c, b & c & ~a & ~d  # two pixels that meet diagonally, as in \ and in /
    points = [np.argwhere(kind) + 1 for kind in (single, falling, falling, rising, rising)]
    rows, columns = np.concatenate(points).T
    # Of the two corners at one point the left pixel's comes first along the row, the upper pixel's along the column.
    turns = np.repeat((0, 0, 1, 0, 1), [len(some) for some in points])  # 0: the left pixel's, 1: the right pixel's
    lower_first = np.repeat((0, 0, 0, 1, 1), [len(some) for some in points])  # in / the left pixel is the lower one
    by_row = np.lexsort((turns, columns, rows))
    by_column = np.lexsort((turns ^ lower_first, rows, columns))
    along_row, along_column = np.empty_like(rows), np.empty_like(rows)
    for order, partner in ((by_row, along_row), (by_column, along_column)):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return _Corners(rows, columns, along_row, along_column)


def _loops(corners: _Corners) -> Iterator[Ring]:
    """Follow the edges; each loop as corners (n, 2) = (column, row) of the lattice."""
    along_row, along_column = corners.along_row.tolist(), corners.along_column.tolist()
    done = bytearray(len(along_row))
    points = np.column_stack((corners.columns, corners.rows)).astype(np.float64)
    for start in range(len(along_row)):
        loop, at = [], start
        while not done[at]:
            other = along_row[at]
            done[at] = done[other] = 1
            loop += [at, other]
            at = along_column[other]
        if loop:
            yield points[loop]


def _keyholed(rings: list[Ring], piece: Mask) -> Ring:
    """One ring of an outer contour and its holes; each ring begins with its first point in reading order.

    From that point of a hole a channel runs to the left, through the piece, up to the next ring. That one begins
    earlier in reading order, so the channels form a tree whose root is the outer contour.
    """
    if len(rings) == 1:
        return rings[0]
    rings = sorted(rings, key=lambda ring: (ring[0, 1], ring[0, 0]))
    edges = _vertical_edges(rings)
    # For each ring: (number of the edge, distance along it, points) of what is to be inserted there.
    guests: list[list[tuple[int, float, Ring]]] = [[] for _ in rings]
    for number in range(len(rings) - 1, 0, -1):
        whole = _with_guests(rings[number], guests[number])
        column, row = rings[number][0].astype(int)
        wall = int(np.flatnonzero(~piece[row, :column])[-1]) + 1
        host, edge = edges[row, wall]
        end = np.array([(wall, row)], dtype=np.float64)
        channel = np.concatenate((end, whole, whole[:1], end))
        guests[host].append((edge, abs(row - float(rings[host][edge, 1])), channel))
    return _with_guests(rings[0], guests[0])


def _vertical_edges(rings: list[Ring]) -> dict[tuple[int, int], tuple[int, int]]:
    """{(row, column of the lattice): (ring, edge)} of every step that an edge makes from a row to the next."""
    found = {}
    for number, ring in enumerate(rings):
        following = np.roll(ring, -1, axis=0)
        for edge in np.flatnonzero(ring[:, 0] == following[:, 0]).tolist():
            start, end = sorted((int(ring[edge, 1]), int(following[edge, 1])))
            found.update({(row, int(ring[edge, 0])): (number, edge) for row in range(start, end)})
    return found


def _with_guests(ring: Ring, guests: list[tuple[int, float, Ring]]) -> Ring:
    parts, done = [], 0
    for edge, _, points in sorted(guests, key=lambda guest: guest[:2]):
        parts += [ring[done : edge + 1], points]
        done = edge + 1
    return np.concatenate([*parts, ring[done:]])
