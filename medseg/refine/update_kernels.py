"""Compiled: what the messages do to the probabilities. Label 0 is implied, because probabilities sum to one."""

# ruff: noqa: C901, PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.lane_kernels import FAST

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def exp_in_place(x, power):
    """e^x for x ≤ 0 to single precision (Cephes' polynomial); `power` is scratch of int32, as long as x."""
    for k in range(x.size):
        v = max(x[k], np.float32(-87.0))
        i = np.int32(v * _LOG2_E - np.float32(0.5))
        power[k] = (i + np.int32(127)) << np.int32(23)
        f = v - np.float32(i) * _LN2_HIGH - np.float32(i) * _LN2_LOW
        y = np.float32(1.9875691500e-4)
        y = y * f + np.float32(1.3981999507e-3)
        y = y * f + np.float32(8.3334519073e-3)
        y = y * f + np.float32(4.1665795894e-2)
        y = y * f + np.float32(1.6666665459e-1)
        y = y * f + np.float32(5.0000001201e-1)
        x[k] = y * f * f + f + np.float32(1.0)
    scale = power.view(np.float32)
    for k in range(x.size):
        x[k] *= scale[k]


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def update_row(unary, scores, channels, total, highest, power):
    """Probabilities of a row of voxels from its messages: softmax over label 0 and the channels.

    Args:
        unary: (channels, row) log p_l - log p_0, less the weighted mass of the kernels; flat.
        scores: (channels, row) the messages Σ w·n·K(n·q), which the probabilities replace; flat.
        channels: Labels besides label 0.
        total: Scratch (row,).
        highest: Scratch (row,).
        power: Scratch (row,) of int32.
    """
    row = total.size
    total[:] = 0
    highest[:] = 0  # label 0's score: the others count from there
    for c in range(channels):
        s = scores[c * row : (c + 1) * row]
        for v in range(row):
            total[v] += s[v]
    for c in range(channels):
        s, u = scores[c * row : (c + 1) * row], unary[c * row : (c + 1) * row]
        for v in range(row):
            z = u[v] + s[v] + total[v]
            s[v] = z
            highest[v] = z if z > highest[v] else highest[v]
    for v in range(row):
        total[v] = -highest[v]
    exp_in_place(total, power)
    for c in range(channels):
        s = scores[c * row : (c + 1) * row]
        for v in range(row):
            s[v] -= highest[v]
        exp_in_place(s, power)
        for v in range(row):
            total[v] += s[v]
    for v in range(row):
        total[v] = np.float32(1) / total[v]
    for c in range(channels):
        s = scores[c * row : (c + 1) * row]
        for v in range(row):
            s[v] *= total[v]
