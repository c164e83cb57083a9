"""Compiled: the highest class of planes, and of points between planes."""

# ruff: noqa: C901, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from functools import partial
from typing import no_type_check

import numpy as np
from numba import float32, int32, intp, njit, types, uint16, void

_BLOCK = 256  # voxels whose scores stay in the innermost cache
_VECTOR = 16  # voxels that are computed together
_ROOM = _BLOCK + _VECTOR  # for their scores: at a power of two they would push one another out of the cache
_ONE = np.float32(1)
# Signatures, so that slabs of other strides do not make it compile again.
_LAYER = (float32[:, ::1], float32[::1])
_LINES = types.Tuple((int32[::1], int32[::1], float32[::1]))
_SETTLE = void(float32[:, :, :, ::1], *_LAYER, uint16[:, :, ::1], intp, intp)
_PAIRS = (types.UniTuple(uint16[:, ::1], 2), types.UniTuple(float32[:, :, ::1], 2))
_BETWEEN = void(*_PAIRS, float32, _LINES, _LINES, *_LAYER, uint16[:, ::1], intp, intp)
_compiled = partial(njit, cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_compiled()
@no_type_check
def _blend(scores, share, u0, u1, su, columns, mixed, count, here):
    """The scores of `count` points of a row of points, linearly interpolated."""
    column_low, column_high, column_share = columns
    channels = scores[0].shape[2]
    blend = np.empty(channels, np.float32)
    for n in range(count):
        at = mixed[n]
        v0, v1, sv = column_low[at], column_high[at], column_share[at]
        blend[:] = 0
        for plane in range(2):
            sp = share if plane else _ONE - share
            w00, w01 = sp * (_ONE - su) * (_ONE - sv), sp * (_ONE - su) * sv
            w10, w11 = sp * su * (_ONE - sv), sp * su * sv
            source = scores[plane]
            c00, c01, c10, c11 = source[u0, v0], source[u0, v1], source[u1, v0], source[u1, v1]
            for f in range(channels):
                blend[f] += w00 * c00[f] + w01 * c01[f] + w10 * c10[f] + w11 * c11[f]
        for f in range(channels):
            here[f * _ROOM + n] = blend[f]


@_compiled()
@no_type_check
def _highest(here, count, weight, bias, index):
    """The first of the highest classes of `count` voxels whose scores or features are `here`, channel by channel."""
    count = -(-count // _VECTOR) * _VECTOR  # what is beyond is not looked at
    classes, channels = bias.size, weight.shape[1]
    best = np.full(_BLOCK, -np.inf, np.float32)
    index[:] = 0
    if channels == 0:
        for c in range(classes):
            row = here[c * _ROOM : (c + 1) * _ROOM]
            for n in range(count):
                index[n] = c if row[n] > best[n] else index[n]
                best[n] = row[n] if row[n] > best[n] else best[n]
        return
    total = np.empty(2 * _BLOCK, np.float32)
    eights = channels // 8 * 8
    for pair in range(0, classes, 2):  # two classes at a time: the features are loaded half as often
        c = max(min(pair, classes - 2), 0)
        d = min(c + 1, classes - 1)
        total[:_BLOCK], total[_BLOCK:] = bias[c], bias[d]
        for f in range(0, eights, 8):
            a, b = weight[c, f : f + 8], weight[d, f : f + 8]
            a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
            b0, b1, b2, b3, b4, b5, b6, b7 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
            x = here[f * _ROOM : (f + 8) * _ROOM]
            for n in range(count):
                x0, x1, x2, x3 = x[n], x[_ROOM + n], x[2 * _ROOM + n], x[3 * _ROOM + n]
                x4, x5, x6, x7 = x[4 * _ROOM + n], x[5 * _ROOM + n], x[6 * _ROOM + n], x[7 * _ROOM + n]
                total[n] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3 + a4 * x4 + a5 * x5 + a6 * x6 + a7 * x7
                total[_BLOCK + n] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4 + b5 * x5 + b6 * x6 + b7 * x7
        for f in range(eights, channels):
            w, v, x = weight[c, f], weight[d, f], here[f * _ROOM : (f + 1) * _ROOM]
            for n in range(count):
                total[n] += w * x[n]
                total[_BLOCK + n] += v * x[n]
        for k in range(2):
            row, label = total[k * _BLOCK : (k + 1) * _BLOCK], c + k
            for n in range(count):
                index[n] = label if row[n] > best[n] else index[n]
                best[n] = row[n] if row[n] > best[n] else best[n]


@_compiled(_SETTLE)
@no_type_check
def settle(scores, weight, bias, labels, first, last):
    """The highest class of every voxel of some planes.

    Args:
        scores: Or features, (planes, U, V, channels).
        weight: (classes, channels) from features to scores; of no channels where these are scores already.
        bias: (classes,).
        labels: (planes, U, V), filled: the first of the highest classes.
        first: Row along U to begin with.
        last: One past the row to end with.
    """
    planes, _, columns, channels = scores.shape
    here = np.zeros(channels * _ROOM, np.float32)
    index = np.empty(_BLOCK, np.int32)
    for p in range(planes):
        for u in range(first, last):
            for begin in range(0, columns, _BLOCK):
                count = min(_BLOCK, columns - begin)
                for n in range(count):
                    voxel = scores[p, u, begin + n]
                    for f in range(channels):
                        here[f * _ROOM + n] = voxel[f]
                _highest(here, count, weight, bias, index)
                for n in range(count):
                    labels[p, u, begin + n] = index[n]


@_compiled(_BETWEEN)
@no_type_check
def between(labels, scores, share, rows, columns, weight, bias, found, first, last):
    """The highest class of points that lie between voxels of two planes.

    Where the eight voxels around a point have the same highest class, so has every linear blend of their scores; only
    elsewhere are scores interpolated.

    Args:
        labels: Highest class of the voxels of two planes, each (U, V).
        scores: Their scores or features, each (U, V, channels).
        share: Of the second plane.
        rows: For each row of points: lower and upper place along U (-1 beyond the voxels), share of the upper.
        columns: For each column of points: the same along V.
        weight: (classes, channels) from features to scores; of no channels where these are scores already.
        bias: (classes,).
        found: (rows, columns), filled; background beyond the voxels.
        first: Row of points to begin with.
        last: One past the row to end with.
    """
    row_low, row_high, row_share = rows
    column_low, column_high, _ = columns
    here = np.zeros(scores[0].shape[2] * _ROOM, np.float32)
    index = np.empty(_BLOCK, np.int32)
    mixed = np.empty(_BLOCK, np.int32)
    for r in range(first, last):
        u0, u1 = row_low[r], row_high[r]
        if u0 < 0:
            found[r] = 0
            continue
        a, b, c, d = labels[0][u0], labels[0][u1], labels[1][u0], labels[1][u1]
        waiting = 0
        for n in range(found.shape[1]):
            v0, v1 = column_low[n], column_high[n]
            if v0 < 0:
                found[r, n] = 0
                continue
            label = a[v0]
            found[r, n] = label
            same = a[v1] == label and b[v0] == label and b[v1] == label
            if not (same and c[v0] == label and c[v1] == label and d[v0] == label and d[v1] == label):
                mixed[waiting] = n
                waiting += 1
            if waiting == _BLOCK:
                _blend(scores, share, u0, u1, row_share[r], columns, mixed, waiting, here)
                _highest(here, waiting, weight, bias, index)
                for k in range(waiting):
                    found[r, mixed[k]] = index[k]
                waiting = 0
        _blend(scores, share, u0, u1, row_share[r], columns, mixed, waiting, here)
        _highest(here, waiting, weight, bias, index)
        for k in range(waiting):
            found[r, mixed[k]] = index[k]
