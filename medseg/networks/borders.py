"""What goes on beyond the border of an image, and how what went beyond is cut off again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def pad(x: Float[Tensor, "b c *space"], before: Sequence[int], after: Sequence[int]) -> Float[Tensor, "b c *padded"]:
    """Mirror the image beyond its border, as often as needed (torch's reflection stops at one image width)."""
    for axis, (low, high) in enumerate(zip(before, after, strict=True), start=2):
        n = x.shape[axis]
        period = max(2 * (n - 1), 1)
        position = torch.arange(-low, n + high, device=x.device) % period
        x = x.index_select(axis, torch.where(position < n, position, period - position))
    return x


def extend(
    x: Float[Tensor, "b c *space"], before: Sequence[int], after: Sequence[int]
) -> Float[Tensor, "b c *extended"]:
    """Zeros beyond the border of the plane, and in depth the first and the last slice again."""
    margins = [(0, 0)] * (x.ndim - 4) + [(low, high) for low, high in zip(before[1::-1], after[1::-1], strict=True)]
    x = functional.pad(x, [n for pair in margins for n in pair])
    for axis, (low, high) in enumerate(zip(before[2:], after[2:], strict=True), start=4):
        slices = torch.arange(-low, x.shape[axis] + high, device=x.device)
        x = x.index_select(axis, slices.clamp(0, x.shape[axis] - 1))
    return x


def centre_crop(x: Float[Tensor, "b c *space"], size: Sequence[int]) -> Float[Tensor, "b c *cropped"]:
    """The middle of `x`; where the rest is odd, one voxel more is cut at the end."""
    for axis, (have, want) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        x = x.narrow(axis, (have - want) // 2, want)
    return x


def leading_crop(x: Float[Tensor, "b c *space"], size: Sequence[int]) -> Float[Tensor, "b c *cropped"]:
    """The first `size` voxels along every axis: what undoes a pooling that rounded up."""
    for axis, want in enumerate(size, start=2):
        x = x.narrow(axis, 0, want)
    return x
