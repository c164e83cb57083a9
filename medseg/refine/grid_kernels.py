"""Compiled: splat, blur and slice of a bilateral grid of cells (A, B, K, V), each with blocks of four channels.

Voxels come as (A, B, channels, K). Space is regular, so a row of voxels shares its place along A and B: it is splatted
into a small (K, V) buffer, rows are added to a plane, planes to the grid. Slicing goes the other way.
"""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.lane_kernels import FAST, LANES, ONE, THREE, TWO, U, add4, corners4
from medseg.refine.update_kernels import update_row


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _corners(place, weight, k_cell, k_part, values, depth):
    """A voxel's four corners in a row buffer (K, V), and its weights for them."""
    v = np.int32(place)
    upper = place - np.float32(v)
    high = weight * k_part
    low = weight - high
    low1, high1 = low * upper, high * upper
    cell = U(k_cell) * values + U(v) * depth
    return (cell, cell + depth, cell + values, cell + values + depth), (low - low1, low1, high - high1, high1)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _planes_of_block(block, channels, row):
    """Offsets of a block's four channels; those that the last block lacks repeat its last."""
    last = channels - 1
    return (
        U(min(block, last) * row),
        U(min(block + 1, last) * row),
        U(min(block + 2, last) * row),
        U(min(block + 3, last) * row),
    )


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_planes(q, channels, weight, value, places, sizes, grid, origin, first, last):
    """Add planes first … last of the voxels, each times its weight, to a part of the grid.

    Args:
        q: (A, B, channels, K), flat.
        channels: See there.
        weight: (A, B, K), flat.
        value: (A, B, K), flat: place along V, in cells.
        places: For A, B and K the cell below every index, and the fraction above it.
        sizes: Cells along A, B, K and V.
        grid: Flat; begins at cell `origin` of A.
        origin: See there.
        first: Plane to begin with.
        last: One past the plane to end with.
    """
    (a_cell, a_part), (b_cell, b_part), (k_cell, k_part) = places
    blocks = (channels + LANES - 1) // LANES
    depth = blocks * LANES
    row_size = sizes[2] * sizes[3] * depth
    plane_size = sizes[1] * row_size
    voxels = k_cell.size
    row = np.zeros(row_size, np.float32)
    plane = np.zeros(plane_size, np.float32)
    for a in range(first, last):
        for b in range(b_cell.size):
            line = a * b_cell.size + b
            for block in range(blocks):
                planes = _planes_of_block(block * LANES, channels, voxels)
                source = q[line * channels * voxels : (line + 1) * channels * voxels]
                _splat_row(source, planes, weight[line * voxels :], value[line * voxels :], k_cell, k_part,
                           U(sizes[3] * depth), U(depth), row[block * LANES :])  # fmt: skip
            above = b_part[b]
            low_row = plane[b_cell[b] * row_size : (b_cell[b] + 1) * row_size]
            high_row = plane[(b_cell[b] + 1) * row_size : (b_cell[b] + 2) * row_size]
            for x in range(row_size):
                low_row[x] += (np.float32(1) - above) * row[x]
                high_row[x] += above * row[x]
                row[x] = 0
        above = a_part[a]
        cell = a_cell[a] - origin
        low_plane = grid[cell * plane_size : (cell + 1) * plane_size]
        high_plane = grid[(cell + 1) * plane_size : (cell + 2) * plane_size]
        for x in range(plane_size):
            low_plane[x] += (np.float32(1) - above) * plane[x]
            high_plane[x] += above * plane[x]
            plane[x] = 0


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _splat_row(q, planes, weight, value, k_cell, k_part, values, depth, row):
    for k in range(k_cell.size):
        v = U(k)
        cells, weights = _corners(value[v], weight[v], k_cell[v], k_part[v], values, depth)
        # Channels that the last block lacks splat a copy into lanes that nobody reads.
        x = (q[planes[0] + v], q[planes[1] + v], q[planes[2] + v], q[planes[3] + v])
        add4(row, cells[0], weights[0], x)
        add4(row, cells[1], weights[1], x)
        add4(row, cells[2], weights[2], x)
        add4(row, cells[3], weights[3], x)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def blur_lines(source, target, pre, n, post, taps, first, last):
    """Symmetric taps along an axis of (pre, n, post), for the values first … last of every line of n · post."""
    length = n * post
    for p in range(pre):
        line = source[p * length : (p + 1) * length]
        out = target[p * length + first : p * length + last]
        middle = line[first:last]
        for x in range(last - first):
            out[x] = taps[0] * middle[x]
        for m in range(1, taps.size):
            shift = m * post
            tap = taps[m]
            begin = max(first, shift)
            if begin < last:
                part = out[begin - first :]
                shifted = line[begin - shift : last - shift]
                for x in range(last - begin):
                    part[x] += tap * shifted[x]
            end = min(last, length - shift)
            if first < end:
                shifted = line[first + shift : end + shift]
                for x in range(end - first):
                    out[x] += tap * shifted[x]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def slice_planes(grid, channels, weight, value, places, sizes, message, unary, q, first, last):
    """Add the grid's values times the weight to the messages of planes first … last; given unary, update q.

    Args:
        grid: Flat, whole.
        channels: As of `splat_planes`, and so `weight`, `value`, `places`, `sizes`, `first` and `last`.
        weight: See there.
        value: See there.
        places: See there.
        sizes: See there.
        message: (A, B, channels, K), flat.
        unary: As `update_row` takes it; empty to leave q as it is.
        q: Becomes the probabilities.
        first: See there.
        last: See there.
    """
    (a_cell, a_part), (b_cell, b_part), (k_cell, k_part) = places
    blocks = (channels + LANES - 1) // LANES
    depth = blocks * LANES
    row_size = sizes[2] * sizes[3] * depth
    plane_size = sizes[1] * row_size
    voxels = k_cell.size
    row = np.empty(row_size, np.float32)
    plane = np.empty(plane_size, np.float32)
    total, highest, power = np.empty(voxels, np.float32), np.empty(voxels, np.float32), np.empty(voxels, np.int32)
    for a in range(first, last):
        above = a_part[a]
        low_plane = grid[a_cell[a] * plane_size : (a_cell[a] + 1) * plane_size]
        high_plane = grid[(a_cell[a] + 1) * plane_size : (a_cell[a] + 2) * plane_size]
        for x in range(plane_size):
            plane[x] = low_plane[x] + above * (high_plane[x] - low_plane[x])
        for b in range(b_cell.size):
            above = b_part[b]
            low_row = plane[b_cell[b] * row_size : (b_cell[b] + 1) * row_size]
            high_row = plane[(b_cell[b] + 1) * row_size : (b_cell[b] + 2) * row_size]
            for x in range(row_size):
                row[x] = low_row[x] + above * (high_row[x] - low_row[x])
            line = a * b_cell.size + b
            target = message[line * channels * voxels : (line + 1) * channels * voxels]
            for block in range(blocks):
                planes = _planes_of_block(block * LANES, channels, voxels)
                _slice_row(row[block * LANES :], planes, weight[line * voxels :], value[line * voxels :], k_cell,
                           k_part, U(sizes[3] * depth), U(depth), target)  # fmt: skip
            if unary.size:
                part = slice(line * channels * voxels, (line + 1) * channels * voxels)
                update_row(unary[part], target, channels, total, highest, power)
                q[part] = target


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _slice_row(row, planes, weight, value, k_cell, k_part, values, depth, message):
    for k in range(k_cell.size):
        v = U(k)
        cells, weights = _corners(value[v], weight[v], k_cell[v], k_part[v], values, depth)
        y0 = message[planes[0] + v] + corners4(row, cells, weights, U(0))
        y1 = message[planes[1] + v] + corners4(row, cells, weights, ONE)
        y2 = message[planes[2] + v] + corners4(row, cells, weights, TWO)
        y3 = message[planes[3] + v] + corners4(row, cells, weights, THREE)
        # Backwards: a channel that the last block lacks writes where the last one then overwrites it.
        message[planes[3] + v] = y3
        message[planes[2] + v] = y2
        message[planes[1] + v] = y1
        message[planes[0] + v] = y0
