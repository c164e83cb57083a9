"""Compiled: which points of a permutohedral lattice an image touches. They are numbered by an open hash table."""

# ruff: noqa: C901, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.vectors import U

_EMPTY = np.int64(-1)
_BLOCK = 64
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


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _place_in_lattice(features, stretch, first, count, elevated, nearest, above, rank):
    """Of `count` pixels the nearest point of the lattice's coarsest part, what is above it, and its rank by axis.

    Pixels come fastest in all arrays, so that many are worked on at once. `nearest` is in multiples of d+1.
    """
    d = features.shape[0]
    axes = d + 1
    total, excess = elevated[d + 1], rank[d + 1]
    for p in range(count):
        total[p] = 0.0
        excess[p] = 0
    for j in range(d, 0, -1):
        for p in range(count):
            scaled = features[j - 1, first + p] * stretch[j - 1]
            elevated[j, p] = total[p] - j * scaled
            total[p] += scaled
    for p in range(count):
        elevated[0, p] = total[p]
    for j in range(axes):
        for p in range(count):
            whole = np.rint(elevated[j, p] / axes)
            nearest[j, p] = np.int32(whole)
            excess[p] += np.int32(whole)
            above[j, p] = elevated[j, p] - whole * axes
            rank[j, p] = 0
    for j in range(d):
        for i in range(j + 1, axes):
            for p in range(count):
                less = np.int32(above[j, p] < above[i, p])
                rank[j, p] += less
                rank[i, p] += np.int32(1) - less
    for j in range(axes):
        for p in range(count):
            place = rank[j, p] + excess[p]
            over = np.int32(place > d) - np.int32(place < 0)
            rank[j, p] = place - over * np.int32(axes)
            nearest[j, p] -= over
            above[j, p] = (above[j, p] + over * axes) / axes


@njit(cache=True, nogil=True)
@no_type_check
def _corners_of(origin, steps, count, nearest, above, rank, corner_keys, share):
    """Of `count` pixels the keys of the lattice points around them, and the distances that their weights lie between.

    The lowest corner's step counts are (last coordinate - coordinate j) / (d+1); the next is a step from it along the
    coordinate of the highest rank, and so on.
    """
    d = steps.size - 1
    for corner in range(d + 1):
        for p in range(count):
            corner_keys[corner, p] = origin
            share[corner, p] = 0.0
        for j in range(d + 1):
            step = steps[j]
            for p in range(count):
                corner_keys[corner, p] += np.int64(rank[j, p] > d - corner) * step
                share[corner, p] += above[j, p] if rank[j, p] == d - corner else 0.0
        for j in range(d):
            step = steps[j]
            for p in range(count):
                corner_keys[corner, p] += np.int64(nearest[d, p] - nearest[j, p]) * step


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
    elevated, above, share = np.empty((d + 2, _BLOCK)), np.empty((d + 1, _BLOCK)), np.empty((d + 1, _BLOCK))
    nearest, rank = np.empty((d + 1, _BLOCK), np.int32), np.empty((d + 2, _BLOCK), np.int32)
    corner_keys = np.empty((d + 1, _BLOCK), np.int64)
    count = 0
    for first in range(0, pixels, _BLOCK):
        together = min(_BLOCK, pixels - first)
        _place_in_lattice(features, stretch, first, together, elevated, nearest, above, rank)
        _corners_of(origin, steps, together, nearest, above, rank, corner_keys, share)
        if count + (d + 1) * together > vertices.size:
            return -1
        for p in range(together):
            before = share[d, p] - 1
            for corner in range(d + 1):
                number, count = _find_or_add(corner_keys[corner, p], keys, numbers, vertices, count)
                indices[first + p, corner] = number
                weights[first + p, corner] = share[corner, p] - before
                before = share[corner, p]
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
    neighbours[:] = missing
    for j in range(steps.size):
        for m in range(vertices.size):
            after = find(vertices[m] + steps[j], keys, numbers, missing)
            if after != missing:
                neighbours[j, m, 0] = after
                neighbours[j, after, 1] = m
