"""The smoothness kernel: an exact separable Gaussian over positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# Beyond four sd lies 6e-5 of a Gaussian's mass.
REACH_SD = 4.0
# Up to this length a line is multiplied by its whole Toeplitz matrix, beyond that in blocks.
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
        self._blocks = [_blocks(taps, n, dtype, device) for taps, n in zip(self.taps, self.shape, strict=True)]

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """The Gaussian, axis by axis; what lies outside the image is zero."""
        size = x.shape
        for axis, (n, blocks) in enumerate(zip(self.shape, self._blocks, strict=True)):
            if n == 1:
                continue
            post = math.prod(self.shape[axis + 1 :])
            # Matrix products read parts of lines where they lie, if lines are rows or columns of a matrix.
            if post == 1:
                lines = x.reshape(-1, n)
                x = _joined([lines[:, part] @ matrix for part, matrix in blocks])
            else:
                lines = x.reshape(-1, n, post)
                x = _joined([matrix.T @ lines[:, part] for part, matrix in blocks])
        return x.reshape(size)

    adjoint = apply  # the matrix is symmetric


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _blocks(taps: Tensor, n: int, dtype: torch.dtype, device: torch.device) -> list[tuple[slice, Tensor]]:
    """What of a line reaches each of its blocks, and the matrix that it is to be multiplied by."""
    reach = taps.numel() - 1
    length = n if n <= max(_WHOLE_LINE, 3 * reach) else _BLOCK
    blocks = []
    known: dict[tuple[int, int, int], Tensor] = {}
    for start in range(0, n, length):
        first, last = max(start - reach, 0), min(start + length + reach, n)
        sizes = (last - first, min(length, n - start), start - first)
        if sizes not in known:
            known[sizes] = toeplitz(taps, *sizes).to(device, dtype)
        blocks.append((slice(first, last), known[sizes]))
    return blocks
