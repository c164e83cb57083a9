"""Compiled: what every kernel shares. Channels are worked on in blocks of four, the width of a vector register.

Indices are unsigned: numba lets a signed one count from the end, and the test for that keeps the compiler from using
vector instructions. Four lanes are written out, read before they are written, for the same reason.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

LANES = 4
FAST = {"contract", "reassoc", "nsz"}
U = np.uint64
ONE, TWO, THREE = U(1), U(2), U(3)


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def add4(target, o, w, x):
    """target[o …] += w · x, for four values."""
    y0 = target[o] + w * x[0]
    y1 = target[o + ONE] + w * x[1]
    y2 = target[o + TWO] + w * x[2]
    y3 = target[o + THREE] + w * x[3]
    target[o] = y0
    target[o + ONE] = y1
    target[o + TWO] = y2
    target[o + THREE] = y3


@njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def corners4(source, o, w, c):
    """Weighted sum of four cells at offset c."""
    return w[0] * source[o[0] + c] + w[1] * source[o[1] + c] + w[2] * source[o[2] + c] + w[3] * source[o[3] + c]
