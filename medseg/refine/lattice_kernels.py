"""Compiled: splat, blur and slice of a permutohedral lattice. Cells hold blocks of four channels."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.gaussian_kernels import TILE, aligned_zeros, smooth_tiles, tile_count
from medseg.refine.update_kernels import exp_in_place
from medseg.refine.vectors import (
    EIGHT,
    FAST,
    FOUR,
    U,
    fill,
    larger,
    largest_of,
    load,
    lower_four,
    store,
    transposed,
    upper_four,
)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _splat_block(q, s, indices, weights, cells, first, last, depth, b, width):
    x = load(q, s, width)
    for r in range(first, last):
        o = U(indices[r]) * depth + b
        store(cells, o, load(cells, o, width) + weights[r] * x)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_pixels(q, depth, indices, weights, cells, first, last):
    """Add the weighted pixels first … last of q (pixels, depth) to the cells (vertices, depth).

    Neighbouring pixels share most of their vertices, so the cells that are added to stay in the cache.
    """
    corners, depth = U(indices.shape[1]), U(depth)
    eights = depth - depth % U(8)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    for p in range(U(first), U(last)):
        r, s = p * corners, p * depth
        for b in range(U(0), eights, U(8)):
            _splat_block(q, s + b, flat_indices, flat_weights, cells, r, r + corners, depth, b, EIGHT)
        if eights < depth:
            _splat_block(q, s + eights, flat_indices, flat_weights, cells, r, r + corners, depth, eights, FOUR)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def blur_vertices(source, target, depth, neighbours, side, first, last):
    """(1 - 2 side) · cell + side · both neighbours along one direction; the cell past the last is zero."""
    depth, centre = U(depth), np.float32(1) - np.float32(2) * side
    eights = depth - depth % U(8)
    for m in range(U(first), U(last)):
        here, after, before = m * depth, U(neighbours[m, 0]) * depth, U(neighbours[m, 1]) * depth
        for b in range(U(0), eights, U(8)):
            both = load(source, after + b, EIGHT) + load(source, before + b, EIGHT)
            store(target, here + b, centre * load(source, here + b, EIGHT) + side * both)
        if eights < depth:
            both = load(source, after + eights, FOUR) + load(source, before + eights, FOUR)
            store(target, here + eights, centre * load(source, here + eights, FOUR) + side * both)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _add_cells(y, cells, indices, weights, first, last, depth, b, width):
    for r in range(first, last):
        y = y + weights[r] * load(cells, U(indices[r]) * depth + b, width)
    return y


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def slice_pixels(cells, depth, indices, weights, message, first, last):
    """Add to messages (pixels, depth) first … last the weighted sum of each pixel's cells."""
    corners, depth = U(indices.shape[1]), U(depth)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    for p in range(U(first), U(last)):
        r = p * corners
        for b in range(U(0), depth, U(4)):
            o = p * depth + b
            y = _add_cells(load(message, o, FOUR), cells, flat_indices, flat_weights, r, r + corners, depth, b, FOUR)
            store(message, o, y)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def refine_rows(cells, unary, q, depth, indices, weights, gaussian, target, first, last):
    """One iteration for rows first … last: the rest of both messages, the update, and the next splat.

    A row is done at once, so that what it needs stays in the cache.

    Args:
        cells: Blurred (vertices, depth), flat.
        unary: (rows, K, depth) log p_l - log p_0, less the weighted mass of the kernels; minus infinity, or almost, of
            lanes that are no channel; flat.
        q: (rows, K, depth) smoothed along the other axes, becomes the probabilities; flat.
        depth: See there.
        indices: (pixels, corners).
        weights: (pixels, corners).
        gaussian: (taps, scale) of the smoothness kernel along K.
        target: The cells of the next iteration; empty to make none.
        first: See there.
        last: See there.
    """
    taps, scale = gaussian
    voxels, size = U(scale.size), U(scale.size * depth)
    together = max(TILE // depth, 1)
    corners, depth = U(indices.shape[1]), U(depth)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    scores = aligned_zeros(np.int64(size) + 16)
    zero = aligned_zeros(np.int64(voxels) + 16)
    totals = aligned_zeros(np.int64(voxels) + 4)
    for line in range(U(first), U(last)):
        begin, r = line * size, line * voxels * corners
        if (np.int64(line) - first) % together == 0:
            lines = min(together, last - np.int64(line))
            part = q[np.int64(begin) : np.int64(begin) + lines * np.int64(size)]
            smooth_tiles(part, scale.size, np.int64(depth), taps, scale, 0, tile_count(lines, np.int64(depth)))
        _add_slices(q[begin:], scores, cells, flat_indices[r:], flat_weights[r:], corners, depth, totals[:voxels])
        _lower_to_highest(scores, unary[begin:], depth, totals[:voxels], zero)
        exp_in_place(scores, size)
        exp_in_place(zero, voxels)
        _normalise(scores, depth, zero[:voxels], q[begin:])
        if target.size:
            splat_pixels(q, depth, indices, weights, target, line * voxels, (line + U(1)) * voxels)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _add_slices(message, scores, cells, indices, weights, corners, depth, totals):
    """Add what the lattice has for a row of pixels to its message, and sum over the channels of each: four pixels at a time."""
    eights, part = depth - depth % U(8), aligned_zeros(16)
    for start in range(U(0), U(totals.size), U(4)):
        count = min(U(4), U(totals.size) - start)
        for p in range(count):
            o, r = (start + p) * depth, (start + p) * corners
            total = fill(np.float32(0), FOUR)
            for b in range(U(0), eights, U(8)):
                y = _add_cells(load(message, o + b, EIGHT), cells, indices, weights, r, r + corners, depth, b, EIGHT)
                store(scores, o + b, y)
                total = total + lower_four(y) + upper_four(y)
            if eights < depth:
                o, b = o + eights, eights
                y = _add_cells(load(message, o, FOUR), cells, indices, weights, r, r + corners, depth, b, FOUR)
                store(scores, o, y)
                total = total + y
            store(part, p * U(4), total)
        _store_some(totals, start, count, _sums(part))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _sums(part):
    a, b, c, d = transposed(
        load(part, U(0), FOUR), load(part, U(4), FOUR), load(part, U(8), FOUR), load(part, U(12), FOUR)
    )
    return (a + b) + (c + d)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _store_some(target, start, count, y):
    if count == U(4):
        store(target, start, y)
    else:
        rest = aligned_zeros(4)
        store(rest, U(0), y)
        for p in range(count):
            target[start + p] = rest[p]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _lower_to_highest(scores, unary, depth, totals, zero):
    """Add the unary and the totals, and take off the highest score, of which label 0's zero is one."""
    eights = depth - depth % U(8)
    for v in range(U(totals.size)):
        o, total = v * depth, totals[v]
        highest, four = fill(np.float32(0), EIGHT), fill(np.float32(0), FOUR)
        for b in range(o, o + eights, U(8)):
            z = load(scores, b, EIGHT) + load(unary, b, EIGHT) + fill(total, EIGHT)
            store(scores, b, z)
            highest = larger(highest, z)
        if eights < depth:
            four = load(scores, o + eights, FOUR) + load(unary, o + eights, FOUR) + fill(total, FOUR)
            store(scores, o + eights, four)
        most = max(largest_of(larger(larger(lower_four(highest), upper_four(highest)), four)), np.float32(0))
        zero[v] = -most
        for b in range(o, o + eights, U(8)):
            store(scores, b, load(scores, b, EIGHT) - fill(most, EIGHT))
        if eights < depth:
            store(scores, o + eights, four - fill(most, FOUR))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _normalise(shares, depth, zero, q):
    part, eights = aligned_zeros(16), depth - depth % U(8)
    for start in range(U(0), U(zero.size), U(4)):
        count = min(U(4), U(zero.size) - start)
        for p in range(count):
            o = (start + p) * depth
            total = load(shares, o, FOUR)
            for b in range(o + U(4), o + depth, U(4)):
                total = total + load(shares, b, FOUR)
            store(part, p * U(4), total)
        store(part, U(0), _sums(part))
        for p in range(count):
            o, inverse = (start + p) * depth, np.float32(1) / (zero[start + p] + part[p])
            for b in range(o, o + eights, U(8)):
                store(q, b, inverse * load(shares, b, EIGHT))
            if eights < depth:
                store(q, o + eights, inverse * load(shares, o + eights, FOUR))
