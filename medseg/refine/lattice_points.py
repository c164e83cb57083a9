"""Compiled: which points of a permutohedral lattice an image touches. They are numbered by an open hash table."""

# ruff: noqa: C901, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.vectors import U

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
        slot = (slot + U(1)) & mask
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
        slot = (slot + U(1)) & mask
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
                less = np.int64(above[j] < above[i])  # no branch: it would be guessed wrong half the time
                rank[j] += less
                rank[i] += 1 - less
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
