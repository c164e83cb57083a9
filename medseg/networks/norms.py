"""Normalisations that also take maps of a single voxel, whatever the number of spatial axes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


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
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
