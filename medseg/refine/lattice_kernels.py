"""Compiled: a permutohedral lattice, its construction, splat, blur and slice. Cells hold blocks of four channels."""

# ruff: noqa: C901, PLR0912, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.lane_kernels import FAST, LANES, ONE, THREE, TWO, U, add4
from medseg.refine.update_kernels import update_row

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
def embed_pixels(features, stretch, lowest, strides, table, vertices, indices, weights):
    """Number the d+1 lattice points around every pixel and weigh them; gives how many there are.

    Args:
        features: (d, pixels) in units of their sd.
        stretch: (d,) from a feature to its axis in the plane of d+1 coordinates that sum to zero.
        lowest: (d,) step counts from which the digits of a key count.
        strides: (d,) of the digits.
        table: Keys (a power of two, -1 where empty) and numbers.
        vertices: Room for the keys in order of their numbers; -1 is given back when it is full.
        indices: (pixels, d+1), filled.
        weights: (pixels, d+1), filled.
    """
    keys, numbers = table
    d, pixels = features.shape
    elevated, nearest = np.empty(d + 1), np.empty(d + 1, np.int64)
    rank, share = np.empty(d + 1, np.int64), np.empty(d + 2)
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
            nearest[j] *= d + 1
            rank[j] = 0
        for j in range(d):
            for i in range(j + 1, d + 1):
                if elevated[j] - nearest[j] < elevated[i] - nearest[i]:
                    rank[j] += 1
                else:
                    rank[i] += 1
        share[:] = 0
        for j in range(d + 1):
            rank[j] += excess
            if rank[j] < 0:
                rank[j] += d + 1
                nearest[j] += d + 1
            elif rank[j] > d:
                rank[j] -= d + 1
                nearest[j] -= d + 1
            delta = (elevated[j] - nearest[j]) / (d + 1)
            share[d - rank[j]] += delta
            share[d + 1 - rank[j]] -= delta
        share[0] += 1 + share[d + 1]
        if count + d + 1 > vertices.size:
            return -1
        for corner in range(d + 1):
            # Step counts: (last coordinate - coordinate j) / (d+1).
            last = nearest[d] + corner - ((d + 1) if rank[d] > d - corner else 0)
            key = np.int64(0)
            for j in range(d):
                here = nearest[j] + corner - ((d + 1) if rank[j] > d - corner else 0)
                key += ((last - here) // (d + 1) - lowest[j]) * strides[j]
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


@njit(cache=True, nogil=True)
@no_type_check
def transpose(indices, weights, starts, pixel, weight):
    """The pixels of every vertex, in order, and their weights for it; starts (vertices + 1,) comes zeroed."""
    pixels, corners = indices.shape
    for p in range(pixels):
        for r in range(corners):
            starts[indices[p, r] + 1] += 1
    for m in range(starts.size - 1):
        starts[m + 1] += starts[m]
    place = starts[:-1].copy()
    for p in range(pixels):
        for r in range(corners):
            slot = place[indices[p, r]]
            place[indices[p, r]] += 1
            pixel[slot] = p
            weight[slot] = weights[p, r]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def splat_vertices(q, depth, starts, pixel, weight, cells, first, last):
    """Fill cells (vertices, depth) first … last with the weighted sums of their pixels of q (pixels, depth)."""
    depth, four = U(depth), U(LANES)
    for m in range(first, last):
        target = U(m) * depth
        for b in range(target, target + depth):
            cells[b] = 0
        for entry in range(U(starts[m]), U(starts[m + 1])):
            source = U(pixel[entry]) * depth
            w = weight[entry]
            for b in range(U(0), depth, four):
                s = source + b
                add4(cells, target + b, w, (q[s], q[s + ONE], q[s + TWO], q[s + THREE]))


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
    corners = U(indices.shape[1])
    depth, four = U(depth), U(LANES)
    flat_indices, flat_weights = indices.reshape(-1), weights.reshape(-1)
    for p in range(U(first), U(last)):
        for b in range(U(0), depth, four):
            o = p * depth + b
            y0, y1, y2, y3 = message[o], message[o + ONE], message[o + TWO], message[o + THREE]
            for r in range(p * corners, (p + ONE) * corners):
                w = flat_weights[r]
                i = U(flat_indices[r]) * depth + b
                y0 += w * cells[i]
                y1 += w * cells[i + ONE]
                y2 += w * cells[i + TWO]
                y3 += w * cells[i + THREE]
            message[o] = y0
            message[o + ONE] = y1
            message[o + TWO] = y2
            message[o + THREE] = y3


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def update_pixels(unary, message, q, channels, depth, row, first, last):
    """Probabilities q (pixels, depth) from messages, for rows first … last; unary comes as (rows, channels, row)."""
    scores = np.empty(channels * row, np.float32)
    total, highest, power = np.empty(row, np.float32), np.empty(row, np.float32), np.empty(row, np.int32)
    size = U(row)
    for line in range(first, last):
        base = U(line * row) * U(depth)
        for v in range(size):
            for c in range(U(channels)):
                scores[c * size + v] = message[base + v * U(depth) + c]
        part = unary[line * channels * row : (line + 1) * channels * row]
        update_row(part, scores, channels, total, highest, power)
        for v in range(size):
            for c in range(U(channels)):
                q[base + v * U(depth) + c] = scores[c * size + v]
