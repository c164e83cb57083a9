"""How a head sees context: atrous spatial pyramids, pyramid pooling, and the plain head; each is in several papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.layers import Norm, PerAxis, Stage, per_axis


class SummedASPP(nn.Module):
    """The pyramid of DeepLab v2: parallel dilated convolutions straight to the classes, summed (1606.00915, fig. 7)."""

    def __init__(
        self, spatial_dims: int, in_channels: int, num_classes: int, *, rates: Sequence[int], kernel_size: PerAxis
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            layer.conv(spatial_dims, in_channels, num_classes, kernel_size, dilation=rate) for rate in rates
        )

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """The sum over the rates."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class PooledBranch(nn.Module):
    """Average pooling to a few bins an axis, 1×1, normalisation, rectifier, and interpolation to the map's size."""

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, bins: PerAxis, norm: Norm, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.bins, self.align_corners = per_axis(bins, spatial_dims), align_corners
        self.unit = layer.conv_norm(spatial_dims, in_channels, channels, 1, norm, pooled=True)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """The pooled context of every voxel."""
        pooled = self.unit(layer.average_pool_to(x, self.bins))
        return layer.resize(pooled, x.shape[2:], align_corners=self.align_corners)


class PyramidPooling(nn.Module):
    """The map itself and its averages over ever smaller bins, concatenated (1612.01105, fig. 3).

    The order is the map, then the bins as given; the authors' Caffe file has them backwards.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        *,
        bins: Sequence[PerAxis],
        norm: Norm,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            PooledBranch(spatial_dims, in_channels, channels, size, norm, align_corners=align_corners) for size in bins
        )
        self.out_channels = in_channels + len(bins) * channels

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """The map with its context."""
        return torch.cat([x, *(branch(x) for branch in self.branches)], dim=1)


class ConcatenatedASPP(nn.Module):
    """The pyramid of DeepLab v3: 1×1, dilated convolutions and image pooling, concatenated (1706.05587, fig. 5).

    With `project`, torchvision's form: a 1×1 convolution back to `channels` and dropout follow.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int],
        kernel_size: PerAxis,
        norm: Norm,
        align_corners: bool,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                layer.conv_norm(spatial_dims, in_channels, channels, 1, norm),
                *(layer.conv_norm(spatial_dims, in_channels, channels, kernel_size, norm, dilation=r) for r in rates),
                PooledBranch(spatial_dims, in_channels, channels, 1, norm, align_corners=align_corners),
            ]
        )
        self.out_channels = channels if project else len(self.branches) * channels
        self.project = nn.Sequential()
        if project:
            self.project.append(layer.conv_norm(spatial_dims, len(self.branches) * channels, channels, 1, norm))
            self.project.append(nn.Dropout(0.5))

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """The branches side by side."""
        out: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return out


class PlainHead(nn.Module):
    """Context if any, one convolution with normalisation and rectifier, dropout, and 1×1 to the classes.

    Args:
        spatial_dims: 2 or 3.
        stages: The backbone's maps.
        take: Index of the map that the head takes.
        channels: Width of the convolution.
        num_classes: Channels of the logits.
        kernel_size: Of the convolution.
        norm: Its normalisation.
        dropout: Probability that a value is dropped in training.
        context: What the map passes first; its attribute `out_channels` says what it leaves.
    """

    def __init__(
        self,
        spatial_dims: int,
        stages: Sequence[Stage],
        take: int,
        channels: int,
        num_classes: int,
        *,
        kernel_size: PerAxis,
        norm: Norm,
        dropout: float,
        context: PyramidPooling | ConcatenatedASPP | None = None,
    ) -> None:
        super().__init__()
        self.take = take
        self.context = nn.Identity() if context is None else context
        inputs = stages[take].channels if context is None else context.out_channels
        self.fuse = layer.conv_norm(spatial_dims, inputs, channels, kernel_size, norm)
        self.dropout = nn.Dropout(dropout)
        self.classifier = layer.conv(spatial_dims, channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b classes *strided"]:
        """The backbone's maps to logits."""
        logits: Tensor = self.classifier(self.dropout(self.fuse(self.context(features[self.take]))))
        return logits
