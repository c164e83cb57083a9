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

_ZERO, _ONE = np.float32(0), np.float32(1)
# Sums of so large exponentials are finite numbers in single precision.
_LARGEST_EXPONENT = np.float32(60)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _splat_block(q, s, indices, weights, cells, r, corners, depth, b, width):
    x = load(q, s, width)
    for corner in range(len(corners)):
        o = U(indices[r + U(corner)]) * depth + b
        store(cells, o, load(cells, o, width) + weights[r + U(corner)] * x)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_pixels(q, depth, indices, weights, corners, cells, first, last):
    """Add the weighted pixels first … last of q (pixels, depth) to the cells (vertices, depth).

    Neighbouring pixels share most of their vertices, so the cells that are added to stay in the cache.

    Args:
        q: Flat.
        depth: A multiple of four.
        indices: (pixels, corners), flat.
        weights: As the indices.
        corners: A tuple of as many zeros: known when this is compiled, so that the loops over them are written out.
        cells: Flat.
        first: See there.
        last: See there.
    """
    depth, eights = U(depth), U(depth - depth % 8)
    for p in range(U(first), U(last)):
        r, s = p * U(len(corners)), p * depth
        for b in range(U(0), eights, U(8)):
            _splat_block(q, s + b, indices, weights, cells, r, corners, depth, b, EIGHT)
        if eights < depth:
            _splat_block(q, s + eights, indices, weights, cells, r, corners, depth, eights, FOUR)


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
def _add_cells(y, cells, indices, weights, r, corners, depth, b, width):
    for corner in range(len(corners)):
        y = y + weights[r + U(corner)] * load(cells, U(indices[r + U(corner)]) * depth + b, width)
    return y


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def slice_pixels(cells, depth, indices, weights, corners, message, first, last):
    """Add to messages (pixels, depth) first … last the weighted sum of each pixel's cells; as `splat_pixels`."""
    depth = U(depth)
    for p in range(U(first), U(last)):
        r = p * U(len(corners))
        for b in range(U(0), depth, U(4)):
            o = p * depth + b
            store(message, o, _add_cells(load(message, o, FOUR), cells, indices, weights, r, corners, depth, b, FOUR))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def refine_rows(cells, unary, q, depth, lattice, gaussian, target, first, last):
    """One iteration for rows first … last: the rest of both messages, the update, and the next splat.

    A row is done at once, so that what it needs stays in the cache.

    Args:
        cells: Blurred (vertices, depth), flat.
        unary: (rows, K, depth) log p_l - log p_0, less the weighted mass of the kernels; minus infinity, or almost, of
            lanes that are no channel; flat.
        q: (rows, K, depth) smoothed along the other axes, becomes the probabilities; flat.
        depth: See there.
        lattice: (indices, weights, corners) as of `splat_pixels`.
        gaussian: (taps, scale) of the smoothness kernel along K.
        target: The cells of the next iteration; empty to make none.
        first: See there.
        last: See there.
    """
    indices, weights, corners = lattice
    taps, scale = gaussian
    voxels, size = scale.size, scale.size * depth
    together = max(TILE // depth, 1)
    scores, ones = aligned_zeros(size + 16), aligned_zeros(voxels + 16)
    for line in range(first, last):
        begin, pixel = line * size, line * voxels
        if (line - first) % together == 0:
            lines = min(together, last - line)
            part = q[begin : begin + lines * size]
            smooth_tiles(part, voxels, depth, taps, scale, 0, tile_count(lines, depth))
        _score(q[begin:], unary[begin:], scores, cells, lattice, pixel, depth, ones[:voxels])
        exp_in_place(scores, size)
        _normalise(scores, depth, ones[:voxels], q[begin:])
        if target.size:
            splat_pixels(q, depth, indices, weights, corners, target, pixel, pixel + voxels)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _score(message, unary, scores, cells, lattice, pixel, depth, ones):
    """What the exponentials of a row's pixels are taken of, four pixels at a time, and e^0 of label 0.

    Both are relative to label 0's score, or to a higher one where its exponential would not be a finite number.
    """
    indices, weights, corners = lattice
    depth, eights, part = U(depth), U(depth - depth % 8), aligned_zeros(16)
    highest, highest_four = fill(_ZERO, EIGHT), fill(_ZERO, FOUR)
    for group in range(U(0), U(ones.size), U(4)):
        start = min(group, U(ones.size) - U(4))  # the last group does some pixels again
        for p in range(U(0), U(4)):
            o, r = (start + p) * depth, (U(pixel) + start + p) * U(len(corners))
            total = fill(_ZERO, FOUR)
            for b in range(U(0), eights, U(8)):
                y = load(message, o + b, EIGHT)
                y = _add_cells(y, cells, indices, weights, r, corners, depth, b, EIGHT)
                store(scores, o + b, y)
                total = total + lower_four(y) + upper_four(y)
            if eights < depth:
                four = load(message, o + eights, FOUR)
                four = _add_cells(four, cells, indices, weights, r, corners, depth, eights, FOUR)
                store(scores, o + eights, four)
                total = total + four
            store(part, p * U(4), total)
        store(part, U(0), _sums(part))
        for p in range(U(0), U(4)):
            o, sum_of_pixel = (start + p) * depth, part[p]
            for b in range(o, o + eights, U(8)):
                z = load(scores, b, EIGHT) + load(unary, b, EIGHT) + fill(sum_of_pixel, EIGHT)
                store(scores, b, z)
                highest = larger(highest, z)
            if eights < depth:
                four = load(scores, o + eights, FOUR) + load(unary, o + eights, FOUR) + fill(sum_of_pixel, FOUR)
                store(scores, o + eights, four)
                highest_four = larger(highest_four, four)
    ones[:] = _ONE
    if largest_of(larger(larger(lower_four(highest), upper_four(highest)), highest_four)) > _LARGEST_EXPONENT:
        _lower_to_highest(scores, depth, ones)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _lower_to_highest(scores, depth, ones):
    for v in range(U(ones.size)):
        highest = fill(_ZERO, FOUR)
        for b in range(v * depth, (v + U(1)) * depth, U(4)):
            highest = larger(highest, load(scores, b, FOUR))
        most = largest_of(highest)
        ones[v] = np.exp(-most)
        for b in range(v * depth, (v + U(1)) * depth, U(4)):
            store(scores, b, load(scores, b, FOUR) - fill(most, FOUR))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _sums(part):
    a, b, c, d = transposed(
        load(part, U(0), FOUR), load(part, U(4), FOUR), load(part, U(8), FOUR), load(part, U(12), FOUR)
    )
    return (a + b) + (c + d)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _normalise(shares, depth, ones, q):
    """Divide every pixel's shares by their sum, label 0's among them."""
    part, depth, eights = aligned_zeros(16), U(depth), U(depth - depth % 8)
    for group in range(U(0), U(ones.size), U(4)):
        start = min(group, U(ones.size) - U(4))
        for p in range(U(0), U(4)):
            o = (start + p) * depth
            total = load(shares, o, FOUR)
            for b in range(o + U(4), o + depth, U(4)):
                total = total + load(shares, b, FOUR)
            store(part, p * U(4), total)
        store(part, U(0), _sums(part))
        for p in range(U(0), U(4)):
            o, inverse = (start + p) * depth, _ONE / (ones[start + p] + part[p])
            for b in range(o, o + eights, U(8)):
                store(q, b, inverse * load(shares, b, EIGHT))
            if eights < depth:
                store(q, o + eights, inverse * load(shares, o + eights, FOUR))
