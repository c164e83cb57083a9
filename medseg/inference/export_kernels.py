"""Compiled: the highest class of planes, and of points between planes."""

# ruff: noqa: C901, PLR0912, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

_BLOCK = 256  # voxels whose scores stay in the innermost cache
_ONE = np.float32(1)
_FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
@no_type_check
def settle(scores, weight, bias, spread, labels, first, last):
    """The highest class of every voxel of some planes, and their scores with the channels last.

    Args:
        scores: Or features, (planes, channels, U, V) of any strides.
        weight: (classes, channels) from features to scores; of no channels where these are scores already.
        bias: (classes,).
        spread: (planes, U, V, channels), filled with `scores`.
        labels: (planes, U, V), filled: the first of the highest classes.
        first: Row along U to begin with.
        last: One past the row to end with.
    """
    planes, channels, _, columns = scores.shape
    fours = weight.shape[1] // 4 * 4
    here = np.empty((channels, _BLOCK), np.float32)
    total = np.empty(_BLOCK, np.float32)
    best = np.empty(_BLOCK, np.float32)
    index = np.empty(_BLOCK, np.int32)
    for u in range(first, last):
        for begin in range(0, columns, _BLOCK):
            count = min(_BLOCK, columns - begin)
            for p in range(planes):  # innermost, for the strides of a sweep along the last axis
                for f in range(channels):
                    for n in range(count):
                        here[f, n] = scores[p, f, u, begin + n]
                for n in range(count):
                    for f in range(channels):
                        spread[p, u, begin + n, f] = here[f, n]
                best[:] = -np.inf
                index[:] = 0
                for c in range(bias.size):
                    if weight.shape[1]:
                        total[:] = bias[c]
                        row = weight[c]
                        for f in range(0, fours, 4):
                            w0, w1, w2, w3 = row[f], row[f + 1], row[f + 2], row[f + 3]
                            x0, x1, x2, x3 = here[f], here[f + 1], here[f + 2], here[f + 3]
                            for n in range(count):
                                total[n] += w0 * x0[n] + w1 * x1[n] + w2 * x2[n] + w3 * x3[n]
                        for f in range(fours, channels):
                            w0, x0 = row[f], here[f]
                            for n in range(count):
                                total[n] += w0 * x0[n]
                    else:
                        total[:count] = here[c, :count]
                    for n in range(count):
                        index[n] = c if total[n] > best[n] else index[n]
                        best[n] = total[n] if total[n] > best[n] else best[n]
                for n in range(count):
                    labels[p, u, begin + n] = index[n]


@njit(cache=True, nogil=True, fastmath=_FAST)
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
        weight: (channels, classes) from features to scores; of no channels where these are scores already.
        bias: (classes,).
        found: (rows, columns), filled; background beyond the voxels.
        first: Row of points to begin with.
        last: One past the row to end with.
    """
    row_low, row_high, row_share = rows
    column_low, column_high, column_share = columns
    channels, classes = scores[0].shape[2], bias.size
    blend = np.empty(channels, np.float32)
    total = np.empty(classes, np.float32)
    for r in range(first, last):
        u0, u1, su = row_low[r], row_high[r], row_share[r]
        for c in range(found.shape[1]):
            v0, v1, sv = column_low[c], column_high[c], column_share[c]
            if u0 < 0 or v0 < 0:
                found[r, c] = 0
                continue
            label = labels[0][u0, v0]
            if (
                labels[0][u0, v1] == label
                and labels[0][u1, v0] == label
                and labels[0][u1, v1] == label
                and labels[1][u0, v0] == label
                and labels[1][u0, v1] == label
                and labels[1][u1, v0] == label
                and labels[1][u1, v1] == label
            ):
                found[r, c] = label
                continue
            blend[:] = 0
            for plane in range(2):
                sp = share if plane else _ONE - share
                w00, w01 = sp * (_ONE - su) * (_ONE - sv), sp * (_ONE - su) * sv
                w10, w11 = sp * su * (_ONE - sv), sp * su * sv
                source = scores[plane]
                c00, c01, c10, c11 = source[u0, v0], source[u0, v1], source[u1, v0], source[u1, v1]
                for f in range(channels):
                    blend[f] += w00 * c00[f] + w01 * c01[f] + w10 * c10[f] + w11 * c11[f]
            if weight.shape[0]:
                total[:] = bias
                for f in range(channels):
                    x, line = blend[f], weight[f]
                    for n in range(classes):
                        total[n] += x * line[n]
            else:
                total[:] = blend
            best = 0
            for n in range(1, classes):
                if total[n] > total[best]:
                    best = n
            found[r, c] = best
