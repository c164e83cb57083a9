"""Compiled: the highest class of planes, and of points between planes."""

# ruff: noqa: C901, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

_BLOCK = 512  # voxels whose best score stays in the innermost cache
_ONE = np.float32(1)
_FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True, nogil=True)
@no_type_check
def highest(scores, labels, first, last):
    """The first of the highest scores (classes, voxels) of the voxels from `first` to `last`, into labels (voxels,)."""
    classes = scores.shape[0]
    best = np.empty(_BLOCK, np.float32)
    index = np.empty(_BLOCK, np.int32)
    for begin in range(first, last, _BLOCK):
        count = min(_BLOCK, last - begin)
        for n in range(count):
            best[n] = scores[0, begin + n]
            index[n] = 0
        for c in range(1, classes):
            row = scores[c, begin : begin + count]
            for n in range(count):
                score = row[n]
                index[n] = c if score > best[n] else index[n]
                best[n] = score if score > best[n] else best[n]
        for n in range(count):
            labels[begin + n] = index[n]


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
