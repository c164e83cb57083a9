"""The appearance kernel of a small standard deviation: every pair of pixels within reach, written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_REACH_SD = 4.0
# Half of a window's weights are held, as many numbers for every pixel.
LARGEST_WINDOW = 128


def reach_voxels(shape: Sequence[int], sd_voxels: Sequence[float]) -> list[int]:
    """How many voxels along every axis lie within four sd."""
    return [min(math.ceil(_REACH_SD * sd), n - 1) for n, sd in zip(shape, sd_voxels, strict=True)]


class WindowFilter:
    """K(i, j) = exp(-|f_i - f_j|²/2) for pixels within four spatial sd of each other, zero beyond; exact there.

    Args:
        features: (d, *space), positions and values, every one divided by its sd.
        reach: Voxels along every axis, from `reach_voxels`.
        dtype: Of the channels that come.
    """

    def __init__(self, features: Float[Tensor, "d ..."], reach: Sequence[int], dtype: torch.dtype) -> None:
        self.shape = features.shape[1:]
        shifts = itertools.product(*(range(-r, r + 1) for r in reach))
        # Of a shift and its opposite one is enough: the kernel is symmetric.
        self._pairs = []
        for shift in shifts:
            if shift > (0,) * len(shift):
                here, there = _overlap(shift)
                squared = ((features[:, *here] - features[:, *there]) ** 2).sum(0)
                self._pairs.append((here, there, torch.exp(-0.5 * squared).to(dtype)))

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """The weighted sum over the window; what lies outside the image is zero."""
        source = x.reshape(x.shape[0], *self.shape)
        result = source.clone()  # a pixel's weight for itself is one
        for here, there, weights in self._pairs:
            result[:, *here] += weights * source[:, *there]
            result[:, *there] += weights * source[:, *here]
        return result.reshape(x.shape)

    adjoint = apply


def _overlap(shift: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The pixels that have a neighbour at this shift, and those neighbours."""
    here = tuple(slice(max(-s, 0), -s if s > 0 else None) for s in shift)
    there = tuple(slice(max(s, 0), s if s < 0 else None) for s in shift)
    return here, there
