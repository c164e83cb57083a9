"""Compiled: what the messages do to the probabilities. Label 0 is implied, because probabilities sum to one."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medseg.refine.vectors import FAST, SIXTEEN, U, fill, larger, load, nearest, scaled_by_power_of_two, store

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ONE, _LEAST = np.float32(1), np.float32(-87)
# The polynomial's coefficients, those of the highest power first.
_C0, _C1, _C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_C3, _C4, _C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
@no_type_check
def exp_of(x):
    """e^x for a vector x ≤ 0 to single precision (Cephes' polynomial)."""
    x = larger(x, _LEAST)
    n = nearest(_LOG2_E * x)
    f = x - _LN2_HIGH * n - _LN2_LOW * n
    y = _C0 * f + fill(_C1, SIXTEEN)
    y = y * f + fill(_C2, SIXTEEN)
    y = y * f + fill(_C3, SIXTEEN)
    y = y * f + fill(_C4, SIXTEEN)
    y = y * f + fill(_C5, SIXTEEN)
    return scaled_by_power_of_two(y * f * f + f + fill(_ONE, SIXTEEN), n)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def exp_in_place(x, size):
    """e^x for the first `size` numbers, each ≤ 0, in whole vectors."""
    for k in range(U(0), U(size), U(16)):
        store(x, k, exp_of(load(x, k, SIXTEEN)))


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def update_row(unary, alike, stride, channels, voxels, scores, q):
    """Probabilities of a row of voxels from its messages: softmax over label 0 and the channels.

    Args:
        unary: (channels, voxels) log p_l - log p_0, less the weighted mass of the kernels; flat.
        alike: (channels, stride) the messages Σ w·n·K(n·q) of one kernel; flat.
        stride: See there.
        channels: Labels besides label 0.
        voxels: At least 16.
        scores: Scratch (2 · channels · 16,).
        q: (channels, voxels) the messages of the other kernel, becomes the probabilities; flat.
    """
    row, stride, channels = U(voxels), U(stride), U(channels)
    tail, end = channels * U(16), row - U(16)
    for c in range(channels):  # the last vector does some voxels again, whose messages are gone by then
        store(scores, tail + c * U(16), load(q, c * row + end, SIXTEEN))
    for start in range(U(0), row, U(16)):
        k = min(start, end)
        total = highest = fill(np.float32(0), SIXTEEN)  # label 0's score: the others count from there
        for c in range(channels):
            smooth = load(q, c * row + k, SIXTEEN) if k < end else load(scores, tail + c * U(16), SIXTEEN)
            message = smooth + load(alike, c * stride + k, SIXTEEN)
            store(scores, c * U(16), message)
            total = total + message
        for c in range(channels):
            z = load(unary, c * row + k, SIXTEEN) + load(scores, c * U(16), SIXTEEN) + total
            store(scores, c * U(16), z)
            highest = larger(highest, z)
        total = exp_of(np.float32(-1) * highest)
        for c in range(channels):
            z = exp_of(load(scores, c * U(16), SIXTEEN) - highest)
            store(scores, c * U(16), z)
            total = total + z
        inverse = fill(_ONE, SIXTEEN) / total
        for c in range(channels):
            store(q, c * row + k, load(scores, c * U(16), SIXTEEN) * inverse)
