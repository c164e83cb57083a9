"""Compiled: symmetric taps along one axis of an array. Buffers stay in the cache, sums in registers."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.vectors import FAST, FOUR, SIXTEEN, U, load, prefetch, store, transposed

# So many lines are copied out side by side and summed together, so far at a time.
TILE = 64
_STRETCH = 64
_ZERO = np.float32(0)


@njit(cache=True, nogil=True)
@no_type_check
def aligned_zeros(size):
    """Zeros that begin where a line of the cache does: a vector that lies in two lines takes twice as long to load."""
    room = np.zeros(size + 16, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + size]


@njit(cache=True, nogil=True)
@no_type_check
def tile_count(pre, post):
    """How many tiles an array (pre, n, post) has along its middle axis."""
    if post < TILE:
        together = TILE // post
        return (pre + together - 1) // together
    return pre * ((post + TILE - 1) // TILE)


@njit(cache=True, nogil=True)
@no_type_check
def _place_of(number, size, n, post):
    """Where a tile begins, how many runs of lines lie side by side in it, and how many lines each has."""
    if post < TILE:
        together = TILE // post
        begin = number * together
        return begin * n * post, min(together, size // (n * post) - begin), post
    tiles = (post + TILE - 1) // TILE
    start = (number % tiles) * TILE
    return (number // tiles) * n * post + start, 1, min(TILE, post - start)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def smooth_tiles(data, n, post, taps, scale, first, last):
    """Along the middle axis of (pre, n, post), in place: scale · T(scale · line) with symmetric taps.

    Args:
        data: Flat.
        n: Length of a line.
        post: Fastest axes together.
        taps: At distance 0, 1, …, fewer than n.
        scale: (n,) before and after.
        first: Tile to begin with.
        last: One past the tile to end with, at most `tile_count`.
    """
    reach = taps.size - 1
    # Rows of a tile: `reach` of them before the stretch that is being summed, and `reach` after it.
    buffer = aligned_zeros((_STRETCH + 2 * reach) * TILE)
    for number in range(first, last):
        place = _place_of(number, data.size, n, post)
        following = _place_of(min(number + 1, last - 1), data.size, n, post)
        lanes = place[1] * place[2]
        _fill(buffer, 0, reach * TILE)
        _copy_rows(data, place, post, scale, 0, reach, buffer, reach)
        for begin in range(0, n, _STRETCH):
            count = min(_STRETCH, n - begin)
            _copy_rows(data, place, post, scale, begin + reach, begin + reach + count + count % 2, buffer, 2 * reach)
            for i in range(0, count, 2):
                if post >= TILE:
                    ahead = begin + reach + _STRETCH + i
                    _fetch(data, place, following, n, post, ahead, ahead + 2)
                _sum_rows(buffer, i, taps, lanes)
            _write_rows(buffer, scale, data, place, post, begin, begin + count)
            if begin + _STRETCH < n:
                for x in range(U(0), U(2 * reach * TILE), U(16)):
                    store(buffer, x, load(buffer, U(_STRETCH * TILE) + x, SIXTEEN))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _fill(buffer, start, stop):
    for x in range(U(start), U(stop)):
        buffer[x] = _ZERO


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _fetch(data, place, following, n, post, first, last):
    """Begin to read rows first … last of a tile; those beyond it are of the tile that follows."""
    for i in range(first, last):
        base, _, width = place if i < n else following
        row = i if i < n else i - n
        if row < n:
            for x in range(U(0), U(width), U(16)):
                prefetch(data, U(base + row * post) + x)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _scaled_blocks(source, start, apart, target, to, to_apart, width, blocks, factor):
    """Scale so many blocks, each of `width` numbers, `apart` in the source and `to_apart` in the target."""
    sixteens, fours, rest = U(width - width % 16), U(width - width % 4), U(width - 16)
    for block in range(blocks):
        here, there = U(start + block * apart), U(to + block * to_apart)
        if width == 4:
            store(target, there, factor * load(source, here, FOUR))
        elif width >= 16:
            for x in range(U(0), sixteens, U(16)):
                store(target, there + x, factor * load(source, here + x, SIXTEEN))
            if sixteens < U(width):  # the last vector does some numbers again
                store(target, there + rest, factor * load(source, here + rest, SIXTEEN))
        else:
            for x in range(U(0), fours, U(4)):
                store(target, there + x, factor * load(source, here + x, FOUR))
            for x in range(fours, U(width)):
                target[there + x] = factor * source[here + x]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _copy_rows(data, place, post, scale, first, last, buffer, to):
    """Rows first … last of a tile, scaled, to the buffer's from `to` on; those beyond the line are zero."""
    base, blocks, width = place
    n = scale.size
    stop = max(min(last, n), first)
    fours = first
    if post == 1:
        fours = stop - (stop - first) % 4
        for i in range(first, fours, 4):
            _turn_in(data, base + i, n, blocks, scale, i, buffer, (to + i - first) * TILE)
    for i in range(fours, stop):
        row = (to + i - first) * TILE
        _scaled_blocks(data, base + i * post, n * post, buffer, row, width, width, blocks, scale[i])
    _fill(buffer, (to + stop - first) * TILE, (to + last - first) * TILE)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _write_rows(buffer, scale, data, place, post, first, last):
    base, blocks, width = place
    n = scale.size
    fours = first
    if post == 1:
        fours = last - (last - first) % 4
        for i in range(first, fours, 4):
            _turn_out(buffer, (i - first) * TILE, data, base + i, n, blocks, scale, i)
    for i in range(fours, last):
        row = (i - first) * TILE
        _scaled_blocks(buffer, row, width, data, base + i * post, n * post, width, blocks, scale[i])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _four_lines(start, n, line, lines):
    """Where four lines begin; those beyond the last are the last."""
    start, n, end = U(start), U(n), U(lines - 1)
    line = U(line)
    return (
        start + min(line, end) * n,
        start + min(line + U(1), end) * n,
        start + min(line + U(2), end) * n,
        start + min(line + U(3), end) * n,
    )


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _turn_in(data, start, n, lines, scale, i, buffer, row):
    """Four numbers of each line to four rows."""
    factor, row, tile = load(scale, U(i), FOUR), U(row), U(TILE)
    for line in range(0, lines, 4):
        a, b, c, d = _four_lines(start, n, line, lines)
        x = transposed(
            factor * load(data, a, FOUR),
            factor * load(data, b, FOUR),
            factor * load(data, c, FOUR),
            factor * load(data, d, FOUR),
        )
        to = row + U(line)
        store(buffer, to, x[0])
        store(buffer, to + tile, x[1])
        store(buffer, to + tile + tile, x[2])
        store(buffer, to + tile + tile + tile, x[3])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _turn_out(buffer, row, data, start, n, lines, scale, i):
    factor, tile = load(scale, U(i), FOUR), U(TILE)
    for line in range(0, lines, 4):
        o = U(row + line)
        x = transposed(
            load(buffer, o, FOUR),
            load(buffer, o + tile, FOUR),
            load(buffer, o + tile + tile, FOUR),
            load(buffer, o + tile + tile + tile, FOUR),
        )
        a, b, c, d = _four_lines(start, n, line, lines)
        # Backwards: what stands for a line beyond the last is overwritten by the last.
        store(data, d, factor * x[3])
        store(data, c, factor * x[2])
        store(data, b, factor * x[1])
        store(data, a, factor * x[0])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _sum_rows(buffer, i, taps, lanes):
    """Σ taps[|m|] · row[middle + m] of two rows, where the first that was summed was: nobody needs that any more."""
    tile, first = U(TILE), U(i * TILE)
    for x in range(U(0), U(lanes), U(32)):
        # Two vectors of each of two rows: what one row reads, the other reads a step later.
        low = first + U(taps.size - 1) * tile + x
        high = low + tile
        below, below2 = load(buffer, low, SIXTEEN), load(buffer, low + U(16), SIXTEEN)
        above, above2 = load(buffer, high, SIXTEEN), load(buffer, high + U(16), SIXTEEN)
        one, one2, two, two2 = taps[0] * below, taps[0] * below2, taps[0] * above, taps[0] * above2
        for m in range(U(1), U(taps.size)):
            low -= tile
            high += tile
            tap = taps[m]
            next_below, next_below2 = load(buffer, low, SIXTEEN), load(buffer, low + U(16), SIXTEEN)
            next_above, next_above2 = load(buffer, high, SIXTEEN), load(buffer, high + U(16), SIXTEEN)
            one, one2 = one + tap * (next_below + above), one2 + tap * (next_below2 + above2)
            two, two2 = two + tap * (below + next_above), two2 + tap * (below2 + next_above2)
            below, below2, above, above2 = next_below, next_below2, next_above, next_above2
        store(buffer, first + x, one)
        store(buffer, first + x + U(16), one2)
        store(buffer, first + tile + x, two)
        store(buffer, first + tile + x + U(16), two2)
