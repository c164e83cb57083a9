"""Compiled: a permutohedral lattice, its construction, splat, blur and slice. Cells hold blocks of four channels."""

# ruff: noqa: C901, PLR0912, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.lane_kernels import FAST, LANES, ONE, THREE, TWO, U, add4
from medseg.refine.update_kernels import exp_in_place

_EMPTY = np.int64(-1)
_GOLDEN = U(0x9E3779B97F4A7C15)  # Fibonacci hashing


@njit(cache=True, nogil=True)
@no_type_check
def _find_or_add(key, keys, numbers, vertices, count):
    """The number of a vertex in an open hash table, and how many there are now; a new one gets the next number."""
    mask = U(keys.size - 1)
    slot = (U(key) * _GOLDEN) >> U(20) & mask
    while keys[slot] != _EMPTY:
        if keys[slot] == key:
            return numbers[slot], count
        slot = (slot + ONE) & mask
    keys[slot] = key
    numbers[slot] = count
    vertices[count] = key
    return np.int32(count), count + 1


@njit(cache=True, nogil=True)
@no_type_check
def find(key, keys, numbers, missing):
    """The number of a vertex, or `missing`."""
    mask = U(keys.size - 1)
    slot = (U(key) * _GOLDEN) >> U(20) & mask
    while keys[slot] != _EMPTY:
        if keys[slot] == key:
            return numbers[slot]
        slot = (slot + ONE) & mask
    return missing


@njit(cache=True, nogil=True)
@no_type_check
def embed_pixels(features, stretch, origin, steps, table, vertices, indices, weights):
    """Number the d+1 lattice points around every pixel and weigh them; gives how many there are.

    Args:
        features: (d, pixels) in units of their sd.
        stretch: (d,) from a feature to its axis in the plane of d+1 coordinates that sum to zero.
        origin: Key of the point at zero.
        steps: (d+1,) what a step along each direction adds to a key.
        table: Keys (a power of two, -1 where empty) and numbers.
        vertices: Room for the keys in order of their numbers; -1 is given back when it is full.
        indices: (pixels, d+1), filled.
        weights: (pixels, d+1), filled.
    """
    keys, numbers = table
    d, pixels = features.shape
    elevated, above, share = np.empty(d + 1), np.empty(d + 1), np.empty(d + 2)
    nearest, rank, by_rank = np.empty(d + 1, np.int64), np.empty(d + 1, np.int64), np.empty(d + 1, np.int64)
    strides = steps[:d]
    count = 0
    for p in range(pixels):
        total = 0.0
        for j in range(d, 0, -1):
            scaled = features[j - 1, p] * stretch[j - 1]
            elevated[j] = total - j * scaled
            total += scaled
        elevated[0] = total
        excess = 0
        for j in range(d + 1):
            nearest[j] = np.int64(np.rint(elevated[j] / (d + 1)))
            excess += nearest[j]
            above[j] = elevated[j] - nearest[j] * (d + 1)
            rank[j] = 0
        for j in range(d):
            for i in range(j + 1, d + 1):
                if above[j] < above[i]:
                    rank[j] += 1
                else:
                    rank[i] += 1
        share[:] = 0
        for j in range(d + 1):
            rank[j] += excess
            if rank[j] < 0:
                rank[j] += d + 1
                nearest[j] += 1
                above[j] -= d + 1
            elif rank[j] > d:
                rank[j] -= d + 1
                nearest[j] -= 1
                above[j] += d + 1
            delta = above[j] / (d + 1)
            share[d - rank[j]] += delta
            share[d + 1 - rank[j]] -= delta
        share[0] += 1 + share[d + 1]
        if count + d + 1 > vertices.size:
            return -1
        # The step counts of the lowest corner: (last coordinate - coordinate j) / (d+1), nearest being multiples.
        key = origin
        for j in range(d):
            key += (nearest[d] - nearest[j]) * strides[j]
            by_rank[rank[j]] = j
        by_rank[rank[d]] = d
        for corner in range(d + 1):
            if corner > 0:  # the next corner is a step along the coordinate whose turn it is
                key += steps[by_rank[d + 1 - corner]]
            number, count = _find_or_add(key, keys, numbers, vertices, count)
            indices[p, corner] = number
            weights[p, corner] = share[corner]
    return count


@njit(cache=True, nogil=True)
@no_type_check
def dilate(steps, table, vertices, count):
    """Add the neighbours of all vertices along every direction; gives the new number of them, -1 without room."""
    keys, numbers = table
    for m in range(count):
        if count + 2 * steps.size > vertices.size:
            return -1
        for step in steps:
            for sign in (1, -1):
                _, count = _find_or_add(vertices[m] + sign * step, keys, numbers, vertices, count)
    return count


@njit(cache=True, nogil=True)
@no_type_check
def link_vertices(steps, table, vertices, neighbours):
    """Fill neighbours (directions, vertices, 2); a missing one is numbered one past the last."""
    keys, numbers = table
    missing = np.int32(vertices.size)
    for j in range(steps.size):
        for m in range(vertices.size):
            neighbours[j, m, 0] = find(vertices[m] + steps[j], keys, numbers, missing)
            neighbours[j, m, 1] = find(vertices[m] - steps[j], keys, numbers, missing)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_pixels(q, depth, indices, weights, cells, first, last):
    """Add the weighted pixels first … last of q (pixels, depth) to the cells (vertices, depth).

    Neighbouring pixels share most of their vertices, so the cells that are added to stay in the cache.
    """
    corners, depth, four = U(indices.shape[1]), U(depth), U(LANES)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    for p in range(U(first), U(last)):
        for b in range(U(0), depth, four):
            s = p * depth + b
            x = (q[s], q[s + ONE], q[s + TWO], q[s + THREE])
            for r in range(p * corners, (p + ONE) * corners):
                add4(cells, U(flat_indices[r]) * depth + b, flat_weights[r], x)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def blur_vertices(source, target, depth, neighbours, side, first, last):
    """(1 - 2 side) · cell + side · both neighbours along one direction; the cell past the last is zero."""
    depth, four, centre = U(depth), U(LANES), np.float32(1) - np.float32(2) * side
    for m in range(U(first), U(last)):
        here, after, before = m * depth, U(neighbours[m, 0]) * depth, U(neighbours[m, 1]) * depth
        for b in range(U(0), depth, four):
            o, i, j = here + b, after + b, before + b
            y0 = centre * source[o] + side * (source[i] + source[j])
            y1 = centre * source[o + ONE] + side * (source[i + ONE] + source[j + ONE])
            y2 = centre * source[o + TWO] + side * (source[i + TWO] + source[j + TWO])
            y3 = centre * source[o + THREE] + side * (source[i + THREE] + source[j + THREE])
            target[o] = y0
            target[o + ONE] = y1
            target[o + TWO] = y2
            target[o + THREE] = y3


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def slice_pixels(cells, depth, indices, weights, message, first, last):
    """Add to messages (pixels, depth) first … last the weighted sum of each pixel's cells."""
    corners, depth, four = U(indices.shape[1]), U(depth), U(LANES)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    for p in range(U(first), U(last)):
        for r in range(p * corners, (p + ONE) * corners):
            cell, w = U(flat_indices[r]) * depth, flat_weights[r]
            for b in range(U(0), depth, four):
                c = cell + b
                add4(message, p * depth + b, w, (cells[c], cells[c + ONE], cells[c + TWO], cells[c + THREE]))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def update_pixels(unary, message, q, depth, row, first, last):
    """Probabilities q (pixels, depth) from messages, for rows first … last, as `update_row` does it.

    Lanes that are no channel have a unary of minus infinity, or almost.
    """
    depth, four = U(depth), U(LANES)
    power = np.empty(np.int64(depth) * row, np.int32)
    zero = np.empty(row, np.float32)
    for line in range(first, last):
        begin = U(line * row) * depth
        for v in range(row):
            zero[v] = -_scores(unary, message, q, depth, four, begin + U(v) * depth)
        exp_in_place(q[begin : begin + U(row) * depth], power)
        exp_in_place(zero, power[:row])
        for v in range(row):
            _normalise(q, zero[v], depth, four, begin + U(v) * depth)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _scores(unary, message, q, depth, four, begin):
    """Write a pixel's scores to q, less the highest of them or of label 0's zero; give the highest."""
    s0 = s1 = s2 = s3 = np.float32(0)
    for o in range(begin, begin + depth, four):
        s0 += message[o]
        s1 += message[o + ONE]
        s2 += message[o + TWO]
        s3 += message[o + THREE]
    total = (s0 + s1) + (s2 + s3)
    h0 = h1 = h2 = h3 = np.float32(0)
    for o in range(begin, begin + depth, four):
        z0 = unary[o] + message[o] + total
        z1 = unary[o + ONE] + message[o + ONE] + total
        z2 = unary[o + TWO] + message[o + TWO] + total
        z3 = unary[o + THREE] + message[o + THREE] + total
        q[o] = z0
        q[o + ONE] = z1
        q[o + TWO] = z2
        q[o + THREE] = z3
        h0 = z0 if z0 > h0 else h0
        h1 = z1 if z1 > h1 else h1
        h2 = z2 if z2 > h2 else h2
        h3 = z3 if z3 > h3 else h3
    h0 = h1 if h1 > h0 else h0
    h2 = h3 if h3 > h2 else h2
    h0 = h2 if h2 > h0 else h0
    for o in range(begin, begin + depth, four):
        z0, z1, z2, z3 = q[o] - h0, q[o + ONE] - h0, q[o + TWO] - h0, q[o + THREE] - h0
        q[o] = z0
        q[o + ONE] = z1
        q[o + TWO] = z2
        q[o + THREE] = z3
    return h0


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _normalise(q, zero, depth, four, begin):
    s0 = s1 = s2 = s3 = np.float32(0)
    for o in range(begin, begin + depth, four):
        s0 += q[o]
        s1 += q[o + ONE]
        s2 += q[o + TWO]
        s3 += q[o + THREE]
    inverse = np.float32(1) / (zero + (s0 + s1) + (s2 + s3))
    for o in range(begin, begin + depth, four):
        x0, x1, x2, x3 = q[o] * inverse, q[o + ONE] * inverse, q[o + TWO] * inverse, q[o + THREE] * inverse
        q[o] = x0
        q[o + ONE] = x1
        q[o + TWO] = x2
        q[o + THREE] = x3
