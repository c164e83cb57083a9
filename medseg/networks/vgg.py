"""VGG: Simonyan and Zisserman, arXiv 1409.1556, table 1: a backbone, and fully connected layers as convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypedDict

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.layers import Norm, PerAxis, Stage, by_dims, per_axis, per_level

# Convolutions in each of the five blocks.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGGSettings(TypedDict, total=False):
    """The settings of `VGG`, which every network on top of it takes too."""

    depth: int
    width: float | None
    norm: Norm | None
    kernel_size: PerAxis
    strides: PerAxis | Sequence[PerAxis]


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width multiplier, at least one."""
    return max(1, round(channels * width))


def unit(  # noqa: D417  # the other arguments are those of `layers.conv`
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: PerAxis,
    *,
    norm: Norm = "none",
    padding: PerAxis | Literal["same"] = "same",
    dilation: PerAxis = 1,
) -> nn.Sequential:
    """Convolution with bias, normalisation if any, ReLU; its parts are called conv, norm and relu.

    Args:
        norm: The bias stays under a normalisation too, as in the published weights.
    """
    convolution = layer.conv(spatial_dims, in_channels, out_channels, kernel_size, padding=padding, dilation=dilation)
    parts = OrderedDict[str, nn.Module](conv=convolution)
    if norm != "none":
        parts["norm"] = layer.norm(norm, spatial_dims, out_channels)
    parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


class VGG(nn.Module):
    """Five blocks of convolutions, each followed by max pooling that keeps a rest at the end (Caffe's rounding).

    Attributes:
        stages: The five pooled maps that `forward` returns.
        blocks: The convolutions, for networks that pool in their own way.
        pools: The poolings.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        depth: 11, 13, 16 or 19 layers with weights (three of them the fully connected ones).
        width: Multiplies the channels 64, 128, 256, 512, 512; 1 in 2D, 0.5 in 3D by default.
        norm: "none" (2D), "instance" (3D), "batch" or "group", after every convolution.
        kernel_size: Of all convolutions: one integer or one an axis.
        strides: Of the five poolings, each an integer or one an axis. A block pooling of stride 1 is none at all.
        overlapping: Pool over `kernel_size` voxels, not over `strides` voxels.
        dilations: Of the convolutions of each block.
        padding: "same", or "valid" for convolutions without any.
        first_padding: Of the very first convolution, where it differs: one integer or one an axis.

    Raises:
        ValueError: If a setting is unknown or there are not five strides.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        depth: int = 16,
        width: float | None = None,
        norm: Norm | None = None,
        kernel_size: PerAxis = 3,
        strides: PerAxis | Sequence[PerAxis] = 2,
        overlapping: bool = False,
        dilations: Sequence[int] = (1, 1, 1, 1, 1),
        padding: Literal["same", "valid"] = "same",
        first_padding: PerAxis | None = None,
    ) -> None:
        super().__init__()
        width = by_dims(spatial_dims, 1.0, 0.5) if width is None else width
        kind: Norm = by_dims(spatial_dims, "none", "instance") if norm is None else norm
        if depth not in DEPTHS or width <= 0 or padding not in ("same", "valid"):
            raise ValueError(
                f"depth {depth} is one of {', '.join(map(str, DEPTHS))}, width {width} above 0, "
                f"padding {padding!r} 'same' or 'valid'"
            )
        self.kernel, self.dilations = per_axis(kernel_size, spatial_dims), tuple(dilations)
        self.strides = per_level(strides, 5, spatial_dims, "strides")
        self.stages: list[Stage] = []
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        total, channels = (1,) * spatial_dims, in_channels
        for block, (count, stride) in enumerate(zip(DEPTHS[depth], self.strides, strict=True)):
            units: list[nn.Module] = []
            for _ in range(count):
                inputs, channels = channels, scaled(CHANNELS[block], width)
                first = first_padding if first_padding is not None and not self.blocks and not units else None
                pad: PerAxis | Literal["same"] = first if first is not None else "same" if padding == "same" else 0
                units.append(
                    unit(spatial_dims, inputs, channels, self.kernel, norm=kind, padding=pad, dilation=dilations[block])
                )
            self.blocks.append(nn.Sequential(*units))
            self.pools.append(_overlapping_pool(stride, self.kernel) if overlapping else _block_pool(stride))
            total = tuple(t * s for t, s in zip(total, stride, strict=True))
            self.stages.append(Stage(channels, total))

    def forward(self, x: Float[Tensor, "b c *space"]) -> list[Tensor]:
        """Image to the maps of `stages`."""
        maps = []
        for block, pool in zip(self.blocks, self.pools, strict=True):
            x = pool(block(x))
            maps.append(x)
        return maps


def _block_pool(stride: tuple[int, ...]) -> nn.Module:
    if set(stride) == {1}:
        return nn.Identity()
    return layer.max_pool(len(stride), stride, ceil_mode=True)


def _overlapping_pool(stride: tuple[int, ...], size: tuple[int, ...]) -> nn.Module:
    padding = [(n - 1) // 2 for n in size]  # a pooled voxel n is centred on voxel n · stride
    return layer.max_pool(len(stride), size, stride=stride, padding=padding, ceil_mode=True)


def fully_connected(
    spatial_dims: int,
    in_channels: int,
    channels: int,
    kernel_size: PerAxis,
    *,
    padding: PerAxis | Literal["same"] = 0,
    dilation: PerAxis = 1,
    dropout: float = 0.5,
) -> nn.Sequential:
    """VGG's first two fully connected layers, read as convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Of the last pooled map.
        channels: Width of both layers, 4096 as published.
        kernel_size: Of the first, 7 as published.
        padding: Of the first; "same" keeps the size.
        dilation: Of the first.
        dropout: Probability that an element is dropped in training, after either layer.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            fc6=layer.conv(spatial_dims, in_channels, channels, kernel_size, padding=padding, dilation=dilation),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            fc7=layer.conv(spatial_dims, channels, channels, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
        )
    )
