"""Compiled: a Gaussian along one axis of an array. Line buffers stay in the cache, sums in registers."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.vectors import FAST, SIXTEEN, U, load, store

# Neighbouring lines that are copied out and summed together, in values.
TILE = 128
# Sums are made of so many values at a time: buffers end with room for as many.
SLACK = 32


@njit(cache=True, nogil=True)
@no_type_check
def aligned_zeros(size):
    """Zeros that begin where a line of the cache does: a vector that lies in two lines takes twice as long to load."""
    room = np.zeros(size + 16, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + size]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def smooth_tiles(source, data, n, post, taps, scale, first, last):
    """Along the middle axis of (pre, n, post): scale · T(scale · line) with symmetric taps.

    Args:
        source: Flat.
        data: The result, flat; may be the source.
        n: Length of a line.
        post: Fastest axes together.
        taps: At distance 0, 1, …
        scale: (n,) before and after.
        first: Tile to begin with, of pre · ⌈post / TILE⌉.
        last: One past the tile to end with.
    """
    reach = taps.size - 1
    tiles = (post + TILE - 1) // TILE
    buffer = aligned_zeros((n + 2 * reach + 1) * TILE)
    sums = buffer[(n + 2 * reach) * TILE :]
    for number in range(first, last):
        start = (number % tiles) * TILE
        width = min(TILE, post - start)
        base = (number // tiles) * n * post + start
        for i in range(n):
            line, copy = U(base + i * post), U((reach + i) * TILE)
            factor = scale[i]
            if width == TILE:
                for x in range(U(0), U(TILE), U(16)):
                    store(buffer, copy + x, factor * load(source, line + x, SIXTEEN))
            else:
                for x in range(U(0), U(width)):
                    buffer[copy + x] = source[line + x] * factor
        for i in range(n):
            convolve(buffer, (reach + i) * TILE, TILE, taps, sums, TILE)
            line = U(base + i * post)
            factor = scale[i]
            if width == TILE:
                for x in range(U(0), U(TILE), U(16)):
                    store(data, line + x, factor * load(sums, x, SIXTEEN))
            else:
                for x in range(U(0), U(width)):
                    data[line + x] = sums[x] * factor


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def smooth_line(line, step, taps, scale, buffer, sums):
    """As `smooth_tiles` along the whole of a line of voxels with `step` channels each, into `sums`.

    Args:
        line: (n · step,).
        step: Distance between neighbours.
        taps: See there.
        scale: (n · step,).
        buffer: Scratch of n · step + 2 · reach · step + SLACK, zero beside the line; left so.
        sums: The result; has SLACK in the end.
    """
    count, margin = U(line.size), U((taps.size - 1) * step)
    whole = count - count % U(16)
    for x in range(U(0), whole, U(16)):
        store(buffer, margin + x, load(line, x, SIXTEEN) * load(scale, x, SIXTEEN))
    for x in range(whole, count):
        buffer[margin + x] = line[x] * scale[x]
    convolve(buffer, margin, step, taps, sums, count)
    for x in range(U(0), whole, U(16)):
        store(sums, x, load(sums, x, SIXTEEN) * load(scale, x, SIXTEEN))
    for x in range(whole, count):
        sums[x] *= scale[x]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def convolve(buffer, middle, step, taps, target, count):
    """target[x] = Σ taps[|m|] · buffer[middle + x + m · step] for x under `count`, and up to SLACK beyond."""
    half = U(SLACK // 2)
    for x in range(U(0), U(count), U(SLACK)):
        low = high = U(middle) + x
        one, two = taps[0] * load(buffer, low, SIXTEEN), taps[0] * load(buffer, low + half, SIXTEEN)
        for m in range(1, taps.size):
            low -= U(step)
            high += U(step)
            one = one + taps[m] * (load(buffer, low, SIXTEEN) + load(buffer, high, SIXTEEN))
            two = two + taps[m] * (load(buffer, low + half, SIXTEEN) + load(buffer, high + half, SIXTEEN))
        store(target, x, one)
        store(target, x + half, two)
