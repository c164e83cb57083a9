"""Compiled: splat, blur and slice of a bilateral grid of cells (A, B, K, blocks, V, 4): channels in blocks of four.

Voxels come as (A, B, channels, K). Space is regular, so a row of voxels shares its place along A and B: it is splatted
into a small (K, blocks, V, 4) buffer, rows are added to a plane, planes to the grid. Slicing goes the other way.
"""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.gaussian_kernels import TILE, aligned_zeros, smooth_tiles, tile_count
from medseg.refine.update_kernels import update_row
from medseg.refine.vectors import EIGHT, FAST, FOUR, SIXTEEN, U, load, lower_four, store, transposed, upper_four

_ONE = np.float32(1)
_LANES = U(4)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _share(source, target, first, part):
    """Add the source to two of its size in the target, from `first` on; it is empty then."""
    size = U(source.size)
    low = U(first) * size
    for x in range(U(0), size, U(16)):
        # All is read before anything is written: a read that lies 4096 bytes from a write would wait for it.
        y, one, two = load(source, x, SIXTEEN), load(target, low + x, SIXTEEN), load(target, low + size + x, SIXTEEN)
        above = part * y
        store(target, low + x, one + (y - above))
        store(target, low + size + x, two + above)
        store(source, x, np.float32(0) * y)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _between(source, first, part, result):
    """Interpolate between two of the result's size in the source, from `first` on."""
    size = U(result.size)
    low = U(first) * size
    for x in range(U(0), size, U(16)):
        y = load(source, low + x, SIXTEEN)
        store(result, x, y + part * (load(source, low + size + x, SIXTEEN) - y))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _lines(block, channels, stride):
    """Offsets of a block's four channels; those that the last block lacks repeat its last."""
    last = U(channels - 1)
    return (
        min(block, last) * stride,
        min(block + U(1), last) * stride,
        min(block + U(2), last) * stride,
        min(block + U(3), last) * stride,
    )


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _splat_voxel(row, cell, step, place, k_part, y):
    below = np.int32(place)
    upper = place - np.float32(below)
    high = k_part * y
    low = y - high
    o = cell + U(below) * _LANES
    above = upper * low
    store(row, o, load(row, o, FOUR) + (low - above))
    store(row, o + _LANES, load(row, o + _LANES, FOUR) + above)
    o += step
    above = upper * high
    store(row, o, load(row, o, FOUR) + (high - above))
    store(row, o + _LANES, load(row, o + _LANES, FOUR) + above)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _splat_row(q, channels, weight, value, k_cell, k_part, values, row):
    """Add voxels (channels, K) to their row of cells."""
    voxels, blocks = U(k_part.size), U((channels + 3) // 4)
    line = U(values) * _LANES
    step = line * blocks
    for block in range(blocks):
        # Channels that the last block lacks splat a copy into lanes that nobody reads.
        p0, p1, p2, p3 = _lines(block * _LANES, channels, voxels)
        for start in range(U(0), voxels, _LANES):
            k = min(start, voxels - _LANES)
            x = transposed(load(q, p0 + k, FOUR), load(q, p1 + k, FOUR), load(q, p2 + k, FOUR), load(q, p3 + k, FOUR))
            for j in range(4):
                v = k + U(j)
                if v >= start:  # else done with the four before
                    cell = U(k_cell[v]) * step + block * line
                    _splat_voxel(row, cell, step, value[v], k_part[v], weight[v] * x[j])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _slice_voxel(row, cell, step, place, k_part, weight):
    below = np.int32(place)
    upper = place - np.float32(below)
    o = cell + U(below) * _LANES
    high = weight * k_part
    y = (weight - high) * load(row, o, EIGHT) + high * load(row, o + step, EIGHT)
    low = lower_four(y)
    return low + upper * (upper_four(y) - low)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _slice_row(row, channels, weight, value, k_cell, k_part, values, stride, alike):
    """Read a row of cells at its voxels, into (channels, stride)."""
    voxels, blocks = U(k_part.size), U((channels + 3) // 4)
    line = U(values) * _LANES
    step = line * blocks
    for block in range(blocks):
        p0, p1, p2, p3 = _lines(block * _LANES, channels, U(stride))
        o = block * line
        for start in range(U(0), voxels, _LANES):
            k = min(start, voxels - _LANES)
            k1, k2, k3 = k + U(1), k + U(2), k + U(3)
            y = transposed(
                _slice_voxel(row, U(k_cell[k]) * step + o, step, value[k], k_part[k], weight[k]),
                _slice_voxel(row, U(k_cell[k1]) * step + o, step, value[k1], k_part[k1], weight[k1]),
                _slice_voxel(row, U(k_cell[k2]) * step + o, step, value[k2], k_part[k2], weight[k2]),
                _slice_voxel(row, U(k_cell[k3]) * step + o, step, value[k3], k_part[k3], weight[k3]),
            )
            # Backwards: a channel that the last block lacks writes where the last one then overwrites it.
            store(alike, p3 + k, y[3])
            store(alike, p2 + k, y[2])
            store(alike, p1 + k, y[1])
            store(alike, p0 + k, y[0])


@njit(cache=True, nogil=True)
@no_type_check
def _row_and_plane(sizes, channels):
    """A row of cells and a plane of them; the same where a plane is one row."""
    row = aligned_zeros(sizes[2] * sizes[3] * ((channels + 3) // 4) * 4)
    return row, row if sizes[1] == 1 else aligned_zeros(sizes[1] * row.size)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_planes(q, channels, voxels, grid, origin, first, last):
    """Add planes first … last of the voxels, each times its weight, to a part of the grid.

    Args:
        q: (A, B, channels, K), flat.
        channels: See there.
        voxels: (weight (A, B, K), place along V in cells (A, B, K), places, cells along A, B, K and V), where the
            places are for A, B and K the cell below every index, and the fraction above it.
        grid: Flat; begins at cell `origin` of A.
        origin: See there.
        first: Plane to begin with.
        last: One past the plane to end with.
    """
    weight, value, ((a_cell, a_part), (b_cell, b_part), (k_cell, k_part)), sizes = voxels
    row, plane = _row_and_plane(sizes, channels)
    rows, length = b_cell.size, k_cell.size
    for a in range(first, last):
        for b in range(rows):
            line = a * rows + b
            part = slice(line * length, (line + 1) * length)
            lines = q[line * length * channels : (line + 1) * length * channels]
            _splat_row(lines, channels, weight[part], value[part], k_cell, k_part, sizes[3], row)
            if sizes[1] > 1:
                _share(row, plane, b_cell[b], b_part[b])
        _share(plane, grid, a_cell[a] - origin, a_part[a])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def slice_planes(grid, voxels, result, first, last):
    """Read the grid, of one channel, at the voxels of planes first … last, times their weight.

    Args:
        grid: Flat, whole.
        voxels: As of `splat_planes`, and so `first` and `last`.
        result: (A, B, K), flat.
        first: See there.
        last: See there.
    """
    weight, value, ((a_cell, a_part), (b_cell, b_part), (k_cell, k_part)), sizes = voxels
    row, plane = _row_and_plane(sizes, 1)
    rows, length = b_cell.size, k_cell.size
    for a in range(first, last):
        _between(grid, a_cell[a], a_part[a], plane)
        for b in range(rows):
            if sizes[1] > 1:
                _between(plane, b_cell[b], b_part[b], row)
            part = slice((a * rows + b) * length, (a * rows + b + 1) * length)
            _slice_row(row, 1, weight[part], value[part], k_cell, k_part, sizes[3], length, result[part])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def refine_planes(grid, unary, q, channels, voxels, gaussians, target, origin, first, last):
    """One iteration for planes first … last: the rest of both messages, the update, and the next splat.

    A plane is done at once, so that what it needs stays in the cache.

    Args:
        grid: Blurred, flat, whole.
        unary: As `update_row` takes it.
        q: (A, B, channels, K) smoothed along A, becomes the probabilities; flat.
        channels: See there.
        voxels: As of `splat_planes`, and so `origin`, `first` and `last`.
        gaussians: (taps, scale) of the smoothness kernel along B and K.
        target: The grid of the next iteration.
        origin: See there.
        first: See there.
        last: See there.
    """
    weight, value, ((a_cell, a_part), (b_cell, b_part), (k_cell, k_part)), sizes = voxels
    (b_taps, b_scale), (k_taps, k_scale) = gaussians
    rows, length = b_cell.size, k_cell.size
    row, plane = _row_and_plane(sizes, channels)
    next_row, next_plane = _row_and_plane(sizes, channels)
    stride = (length + 15) // 16 * 16
    alike, scores = aligned_zeros(channels * stride), aligned_zeros(2 * channels * 16)
    size = rows * channels * length
    together = max(TILE // (rows * channels), 1)  # planes of few lines are smoothed together
    for a in range(first, last):
        if (a - first) % together == 0:
            planes = min(together, last - a)
            part_q = q[a * size : (a + planes) * size]
            if rows > 1:
                smooth_tiles(part_q, rows, size // rows, b_taps, b_scale, 0, tile_count(planes, size // rows))
            smooth_tiles(part_q, length, 1, k_taps, k_scale, 0, tile_count(planes * rows * channels, 1))
        _between(grid, a_cell[a], a_part[a], plane)
        for b in range(rows):
            if sizes[1] > 1:
                _between(plane, b_cell[b], b_part[b], row)
            line = a * rows + b
            part = slice(line * length, (line + 1) * length)
            _slice_row(row, channels, weight[part], value[part], k_cell, k_part, sizes[3], stride, alike)
            part_q = slice(line * length * channels, (line + 1) * length * channels)
            update_row(unary[part_q], alike, stride, channels, length, scores, q[part_q])
            if target.size:
                _splat_row(q[part_q], channels, weight[part], value[part], k_cell, k_part, sizes[3], next_row)
                if sizes[1] > 1:
                    _share(next_row, next_plane, b_cell[b], b_part[b])
        if target.size:
            _share(next_plane, target, a_cell[a] - origin, a_part[a])
