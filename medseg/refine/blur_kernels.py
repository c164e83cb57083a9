"""Compiled: symmetric taps along an axis of the bilateral grid."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

from numba import njit

from medseg.refine.vectors import FAST, FOUR, SIXTEEN, U, load, store


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def blur_lines(source, target, n, post, taps, first, last):
    """Taps along the middle axis of (pre, n, post), for rows first … last of pre · n; post is a multiple of four."""
    post = U(post)
    whole = post - post % U(16)
    for number in range(first, last):
        i = number % n
        below, above = min(taps.size - 1, i), min(taps.size - 1, n - 1 - i)
        base = U(number) * post
        for x in range(U(0), whole, U(16)):
            store(target, base + x, _sum_taps(source, base + x, post, taps, below, above, SIXTEEN))
        for x in range(whole, post, U(4)):
            store(target, base + x, _sum_taps(source, base + x, post, taps, below, above, FOUR))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _sum_taps(source, middle, post, taps, below, above, width):
    total = taps[0] * load(source, middle, width)
    o = middle
    for m in range(1, below + 1):
        o -= post
        total = total + taps[m] * load(source, o, width)
    o = middle
    for m in range(1, above + 1):
        o += post
        total = total + taps[m] * load(source, o, width)
    return total
