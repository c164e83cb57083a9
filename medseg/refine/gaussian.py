"""The smoothness kernel: an exact separable Gaussian over positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# Beyond four sd lies 6e-5 of a Gaussian's mass.
REACH_SD = 4.0
# Up to this length a line is multiplied by its whole Toeplitz matrix, beyond that in blocks with their margins.
_WHOLE_LINE = 160
_BLOCK = 64


def gaussian_taps(sd: float, longest: int) -> Float[Tensor, " taps"]:
    """exp(-m²/2sd²) for m = 0 … reach, in float64; no tap reaches beyond a line of `longest` voxels."""
    reach = min(max(math.ceil(REACH_SD * sd), 1), longest - 1)
    return torch.exp(-0.5 * (torch.arange(reach + 1, dtype=torch.float64) / sd) ** 2)


def toeplitz(taps: Tensor, rows: int, columns: int, offset: int = 0) -> Float[Tensor, "rows columns"]:
    """The matrix whose entry (r, c) is the tap at distance |r - c - offset|, zero beyond the last."""
    distance = (torch.arange(rows)[:, None] - torch.arange(columns)[None, :] - offset).abs()
    reach = taps.numel() - 1
    return torch.where(distance <= reach, taps[distance.clamp_max(reach)], 0.0)


class SmoothnessFilter:
    """K(i, j) = exp(-|p_i - p_j|²/2sd²) on a grid of pixels, exact to its reach of four sd.

    Args:
        shape: Of the image.
        sd_voxels: Standard deviation along every axis, in voxels of that axis.
        dtype: Of the channels that come.
        device: Where they are.
    """

    def __init__(
        self, shape: Sequence[int], sd_voxels: Sequence[float], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = tuple(shape)
        self.taps = [gaussian_taps(sd, n) for sd, n in zip(sd_voxels, shape, strict=True)]
        self._matrices = []
        for taps, n in zip(self.taps, self.shape, strict=True):
            reach = taps.numel() - 1
            whole = n <= max(_WHOLE_LINE, 3 * reach)
            matrix = toeplitz(taps, n, n) if whole else toeplitz(taps, _BLOCK + 2 * reach, _BLOCK, reach)
            self._matrices.append((matrix.to(device, dtype), reach, whole))

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """The Gaussian, axis by axis; what lies outside the image is zero."""
        size = x.shape
        for axis, (n, (matrix, reach, whole)) in enumerate(zip(self.shape, self._matrices, strict=True)):
            if n == 1:
                continue
            lines = x.reshape(size[0] * math.prod(self.shape[:axis]), n, math.prod(self.shape[axis + 1 :]))
            x = matrix @ lines if whole else _blockwise(lines, matrix, reach)
        return x.reshape(size)

    adjoint = apply  # the matrix is symmetric


def _blockwise(lines: Float[Tensor, "pre n post"], matrix: Tensor, reach: int) -> Float[Tensor, "pre n post"]:
    pre, n, post = lines.shape
    missing = -n % _BLOCK
    padded = torch.nn.functional.pad(lines, (0, 0, reach, reach + missing))
    blocks = padded.unfold(1, _BLOCK + 2 * reach, _BLOCK) @ matrix  # (pre, blocks, post, _BLOCK)
    return blocks.transpose(2, 3).reshape(pre, n + missing, post)[:, :n]
