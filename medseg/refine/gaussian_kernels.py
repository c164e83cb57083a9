"""Compiled: a Gaussian along one axis of an array. Line buffers stay in the cache."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.lane_kernels import FAST

# Values that are summed over all taps before the next: the sums stay in the first-level cache.
SEGMENT = 512
# Neighbouring lines that are copied out together, in values.
TILE = 64
TAPS_AT_ONCE = 4


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def smooth_tiles(source, data, n, post, taps, scale, first, last):
    """Along the middle axis of (pre, n, post), post > 1: scale · T(scale · line) with symmetric taps.

    Args:
        source: Flat.
        data: The result, flat; may be the source.
        n: Length of a line.
        post: Fastest axes together.
        taps: At distance 0, 1, …; one more than a multiple of TAPS_AT_ONCE.
        scale: (n,) before and after.
        first: Tile to begin with, of pre · ⌈post / TILE⌉.
        last: One past the tile to end with.
    """
    reach = taps.size - 1
    tiles = (post + TILE - 1) // TILE
    buffer = np.zeros((n + 2 * reach) * TILE, np.float32)
    sums = np.empty(max(SEGMENT, TILE), np.float32)
    for number in range(first, last):
        start = (number % tiles) * TILE
        width = min(TILE, post - start)
        base = (number // tiles) * n * post + start
        buffer[: reach * width] = 0
        buffer[(reach + n) * width : (2 * reach + n) * width] = 0
        for i in range(n):
            line = source[base + i * post : base + i * post + width]
            copy = buffer[(reach + i) * width : (reach + i + 1) * width]
            factor = scale[i]
            for x in range(width):
                copy[x] = line[x] * factor
        rows = max(SEGMENT // width, 1)
        for i in range(0, n, rows):
            count = min(i + rows, n) - i
            total = sums[: count * width]
            _sum_taps(buffer, (reach + i) * width, width, taps, total)
            for row in range(count):
                line = data[base + (i + row) * post : base + (i + row) * post + width]
                part = total[row * width : (row + 1) * width]
                factor = scale[i + row]
                for x in range(width):
                    line[x] = part[x] * factor


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def smooth_rows(source, data, n, taps, scale, first, last):
    """As `smooth_tiles` along the fastest axis, for lines first … last of (lines, n)."""
    reach = taps.size - 1
    step = n + reach  # lines one after the other, with room for the taps in between
    batch = max(2 * SEGMENT // step, 1)
    buffer = np.zeros(batch * step + reach, np.float32)
    sums = np.empty(batch * step, np.float32)
    for begin in range(first, last, batch):
        count = min(begin + batch, last) - begin
        for k in range(count):
            line = source[(begin + k) * n : (begin + k + 1) * n]
            copy = buffer[reach + k * step : reach + k * step + n]
            for x in range(n):
                copy[x] = line[x] * scale[x]
        total = sums[: count * step - reach]
        if count < batch:
            buffer[reach + count * step :] = 0
        for x in range(0, total.size, SEGMENT):
            _sum_taps(buffer, reach + x, 1, taps, total[x : min(x + SEGMENT, total.size)])
        for k in range(count):
            line = data[(begin + k) * n : (begin + k + 1) * n]
            part = total[k * step : k * step + n]
            for x in range(n):
                line[x] = part[x] * scale[x]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _sum_taps(buffer, middle, width, taps, total):
    """total[x] = Σ taps[|m|] · buffer[middle + x + m · width]."""
    count = total.size
    centre = buffer[middle : middle + count]
    for x in range(count):
        total[x] = taps[0] * centre[x]
    for m in range(1, taps.size, TAPS_AT_ONCE):
        low, high = middle - m * width, middle + m * width
        low1, high1 = buffer[low : low + count], buffer[high : high + count]
        low2, high2 = buffer[low - width : low - width + count], buffer[high + width : high + width + count]
        low, high = low - 2 * width, high + 2 * width
        low3, high3 = buffer[low : low + count], buffer[high : high + count]
        low4, high4 = buffer[low - width : low - width + count], buffer[high + width : high + width + count]
        tap1, tap2, tap3, tap4 = taps[m], taps[m + 1], taps[m + 2], taps[m + 3]
        for x in range(count):
            total[x] += (
                tap1 * (low1[x] + high1[x])
                + tap2 * (low2[x] + high2[x])
                + tap3 * (low3[x] + high3[x])
                + tap4 * (low4[x] + high4[x])
            )
