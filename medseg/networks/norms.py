"""Normalisations that also take maps of a single voxel, whatever the number of spatial axes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

_LEAST_SPREAD = 0.01  # of the squared mean: with less, the mean of the squares says little of the variance


class BatchNorm(_BatchNorm):
    """Batch normalisation that also trains on a single value a channel, as image pooling leaves at batch size 1.

    One value has no spread: it is normalised by the running statistics, as at inference, and leaves them alone.
    """

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        """Normalise; torch's own forward refuses to train on one value."""
        if self.training and x.numel() == x.shape[1]:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        """Any number of spatial axes will do."""


class FrozenBatchNorm(BatchNorm):
    """Batch normalisation whose statistics, scale and offset stay what they are: those of weights loaded into it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)
        self.eval()  # a fresh network is in training, and a trainer need not say so again

    def train(self, mode: bool = True) -> FrozenBatchNorm:  # torch's signature
        """Stay as in prediction."""
        del mode
        super().train(mode=False)
        return self


class GroupNorm(nn.GroupNorm):
    """Group normalisation that also takes maps of a single voxel, as the bottom of a deep network sees.

    With one group a channel it is instance normalisation, and faster than torch's in channels-last layout.
    """

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        """Normalise; torch's own forward refuses one voxel, for which the result is the offset."""
        is_plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dtype != torch.float32
        if not is_plain and _is_channels_last(x):
            result = self._by_moments(x)
            if result is not None:
                return result
            x = x.contiguous()
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _by_moments(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"] | None:
        """Normalise maps whose channels are last in memory; None if they vary too little for that.

        torch adds up a million voxels one by one there, in single precision, which leaves three digits.
        """
        mean, square = (moment.view(len(x), self.num_groups, -1).mean(2, keepdim=True) for moment in _moments(x))
        variance = square - mean**2
        if bool((variance < _LEAST_SPREAD * mean**2).any()):
            return None
        scale = torch.rsqrt(variance + self.eps)
        scale, offset = (part.expand(-1, -1, x.shape[1] // self.num_groups) for part in (scale, -mean * scale))
        scale, offset = (part.reshape(len(x), -1, *[1] * (x.ndim - 2)).float() for part in (scale, offset))
        if self.weight is not None:
            weight, bias = (part.view(-1, *[1] * (x.ndim - 2)) for part in (self.weight, self.bias))
            scale, offset = scale * weight, offset * weight + bias
        return torch.addcmul(offset, x, scale)


def _is_channels_last(x: Float[Tensor, "b c *space"]) -> bool:
    return x.ndim in {4, 5} and x.shape[1] > 1 and x.stride(1) == 1 and x.movedim(1, -1).is_contiguous()


def _moments(x: Float[Tensor, "b c *space"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Means of the voxels and of their squares, in double precision from the sums over planes."""
    batch, channels = x.shape[:2]
    planes = x.movedim(1, -1).reshape(-1, x.shape[-2:].numel(), channels)
    squares = torch.bmm(planes.transpose(1, 2), planes).diagonal(dim1=1, dim2=2)  # the quickest way to add them up
    count = x.shape[2:].numel()
    sums = (part.view(batch, -1, channels).sum(1, dtype=torch.float64) for part in (planes.sum(1), squares))
    mean, square = (part / count for part in sums)
    return mean, square
