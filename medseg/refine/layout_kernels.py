"""Compiled: from probabilities, label by label, to what the mean field works on, and back.

Voxels lie row by row: as (lines, channels, K), or pixels last as (lines, K, depth) with depth a multiple of four.
"""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.gaussian_kernels import aligned_zeros
from medseg.refine.vectors import (
    FAST,
    FOUR,
    SIXTEEN,
    U,
    exponent_and_mantissa,
    fill,
    larger,
    load,
    store,
    transposed,
)

_TINY = np.float32(np.finfo(np.float32).tiny)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_HALF, _ONE = np.float32(0.5), np.float32(1)
_P0, _P1, _P2 = np.float32(7.0376836292e-2), np.float32(-1.1514610310e-1), np.float32(1.1676998740e-1)
_P3, _P4, _P5 = np.float32(-1.2420140846e-1), np.float32(1.4249322787e-1), np.float32(-1.6668057665e-1)
_P6, _P7, _P8 = np.float32(2.0000714765e-1), np.float32(-2.4999993993e-1), np.float32(3.3333331174e-1)
# A score that no message can lift: of the lanes that are no label.
_NEVER = np.float32(-1e6)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
@no_type_check
def log_of(x):
    """Log x for a vector to single precision (Cephes' polynomial); what is less than normal counts as the smallest."""
    e, x = exponent_and_mantissa(larger(x, _TINY))
    x = x - fill(_ONE, SIXTEEN)
    z = x * x
    y = _P0 * x + fill(_P1, SIXTEEN)
    y = y * x + fill(_P2, SIXTEEN)
    y = y * x + fill(_P3, SIXTEEN)
    y = y * x + fill(_P4, SIXTEEN)
    y = y * x + fill(_P5, SIXTEEN)
    y = y * x + fill(_P6, SIXTEEN)
    y = y * x + fill(_P7, SIXTEEN)
    y = y * x + fill(_P8, SIXTEEN)
    y = y * x * z + _LN2_LOW * e - _HALF * z
    return x + y + _LN2_HIGH * e


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def log_in_place(x, size):
    """Log x for the first `size` numbers, in whole vectors."""
    for k in range(U(0), U(size), U(16)):
        store(x, k, log_of(load(x, k, SIXTEEN)))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def spread(p, mass, unary, q, channels, depth, voxels, first, last):
    """The unary log p_l - log p_0 less the mass, and normalised probabilities, of lines first … last.

    Args:
        p: (channels + 1, lines, voxels), flat.
        mass: (lines, voxels), flat.
        unary: The result, flat.
        q: The other result, flat.
        channels: Labels besides label 0.
        depth: Of a pixel where pixels come last, else 0.
        voxels: Of a line, at least 16.
        first: Line to begin with.
        last: One past the line to end with.
    """
    row, size, count = U(voxels), U(mass.size), U(channels)
    scores, shares = aligned_zeros(max(channels, depth) * 16), aligned_zeros(max(channels, depth) * 16)
    scores[channels * 16 :] = _NEVER
    for line in range(U(first), U(last)):
        for start in range(U(0), row, U(16)):
            k = min(start, row - U(16))  # the last vector does some voxels again
            o = line * row + k
            total = load(p, o, SIXTEEN)
            lowest = log_of(total) + load(mass, o, SIXTEEN)
            for c in range(count):
                x = load(p, (c + U(1)) * size + o, SIXTEEN)
                total = total + x
                store(scores, c * U(16), log_of(x) - lowest)
                store(shares, c * U(16), x)
            inverse = fill(_ONE, SIXTEEN) / total
            for c in range(count):
                store(shares, c * U(16), load(shares, c * U(16), SIXTEEN) * inverse)
            if depth:
                _turn(scores, unary, o, U(depth))
                _turn(shares, q, o, U(depth))
            else:
                for c in range(count):
                    to = (line * count + c) * row + k
                    store(unary, to, load(scores, c * U(16), SIXTEEN))
                    store(q, to, load(shares, c * U(16), SIXTEEN))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _turn(rows, target, pixel, depth):
    """Rows of sixteen pixels to pixels of `depth` rows."""
    for c in range(U(0), depth, U(4)):
        for j in range(U(0), U(16), U(4)):
            o = c * U(16) + j
            columns = transposed(
                load(rows, o, FOUR),
                load(rows, o + U(16), FOUR),
                load(rows, o + U(32), FOUR),
                load(rows, o + U(48), FOUR),
            )
            to = (pixel + j) * depth + c
            store(target, to, columns[0])
            store(target, to + depth, columns[1])
            store(target, to + depth + depth, columns[2])
            store(target, to + depth + depth + depth, columns[3])


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def gather(q, result, numbers, channels, depth, voxels, lines, first, last):
    """Probabilities label by label, label 0 among them, of lines first … last: `spread` backwards.

    Args:
        q: As of `spread`.
        result: (labels, lines, voxels), flat.
        numbers: (channels + 1,) which of the labels is label 0, which is channel 0, …
        channels: As of `spread`, and so `depth`, `voxels`, `first` and `last`.
        depth: See there.
        voxels: See there.
        lines: See there.
        first: See there.
        last: See there.
    """
    row, size, count = U(voxels), U(lines) * U(voxels), U(channels)
    shares = aligned_zeros(max(channels, depth) * 16)
    for line in range(U(first), U(last)):
        for start in range(U(0), row, U(16)):
            k = min(start, row - U(16))
            o = line * row + k
            if depth:
                _turn_back(q, shares, o, U(depth))
            rest = fill(_ONE, SIXTEEN)
            for c in range(count):
                x = load(shares, c * U(16), SIXTEEN) if depth else load(q, (line * count + c) * row + k, SIXTEEN)
                store(result, U(numbers[c + U(1)]) * size + o, x)
                rest = rest - x
            store(result, U(numbers[0]) * size + o, larger(rest, np.float32(0)))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _turn_back(source, rows, pixel, depth):
    for c in range(U(0), depth, U(4)):
        for j in range(U(0), U(16), U(4)):
            o = (pixel + j) * depth + c
            columns = transposed(
                load(source, o, FOUR),
                load(source, o + depth, FOUR),
                load(source, o + depth + depth, FOUR),
                load(source, o + depth + depth + depth, FOUR),
            )
            to = c * U(16) + j
            store(rows, to, columns[0])
            store(rows, to + U(16), columns[1])
            store(rows, to + U(32), columns[2])
            store(rows, to + U(48), columns[3])
