"""Compiled: a window added to the planes that wait for later ones."""

# ruff: noqa: PLR0917 - a compiled function takes plain arrays

from __future__ import annotations

from typing import no_type_check

from numba import float32, intp, njit, void

_ADD = void(float32[:, :, :, ::1], float32[:, :, :, ::1], float32[:, :, ::1], intp, intp, intp, intp, intp)


@njit(_ADD, cache=True, nogil=True, fastmath={"contract"})
@no_type_check
def add_window(sums, scores, weights, i0, j0, k0, first, last):
    """Add a window's weighted scores to sums; what goes beyond an end goes on at its beginning.

    Args:
        sums: (channels, I, J, K).
        scores: The window's, (channels, i, j, k).
        weights: Of its voxels, (i, j, k).
        i0: Where the window begins along I.
        j0: Along J.
        k0: Along K.
        first: Channel to begin with.
        last: One past the channel to end with.
    """
    beyond = max(k0 + weights.shape[2] - sums.shape[3], 0)
    inside = weights.shape[2] - beyond
    for c in range(first, last):
        for i in range(weights.shape[0]):
            for j in range(weights.shape[1]):
                line = sums[c, (i0 + i) % sums.shape[1], (j0 + j) % sums.shape[2]]
                score, weight, here = scores[c, i, j], weights[i, j], line[k0 : k0 + inside]
                for k in range(inside):
                    here[k] += weight[k] * score[k]
                for k in range(beyond):
                    line[k] += weight[inside + k] * score[inside + k]
