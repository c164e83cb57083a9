"""ResNet as a backbone: He et al., arXiv 1512.03385, table 1 and figure 5 (right), with output stride by dilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.layers import Norm, PerAxis, Stage, by_dims, per_axis, per_level

# Bottleneck blocks of each stage, res2 to res5.
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Widths of the 7×7 convolution, or of the three 3×3 ones that the PSPNet authors and mmsegmentation have instead.
_STEMS = {"plain": (64,), "deep": (64, 64, 128), "mmsegmentation": (32, 32, 64)}
_EXPANSION = 4
_FRESH_RESIDUAL = 0.2


class ResNetSettings(TypedDict, total=False):
    """The settings of `ResNet`, which every network on top of it takes too."""

    depth: int | Sequence[int]
    width: float | None
    stem: str
    stride_on: str
    output_stride: int
    first_block: str
    multi_grid: Sequence[int]
    ceil_mode: bool
    norm: Norm
    kernel_size: PerAxis
    strides: PerAxis | Sequence[PerAxis]


class Bottleneck(nn.Module):
    """1×1 to fewer channels, 3×3, 1×1 to more, added to the input (projected by 1×1 where its shape differs)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        *,
        stride: PerAxis,
        dilation: PerAxis,
        stride_on: str,
        norm: Norm,
        kernel_size: PerAxis,
    ) -> None:
        super().__init__()
        out_channels = _EXPANSION * channels
        first, middle = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.reduce = layer.conv_norm(spatial_dims, in_channels, channels, 1, norm, stride=first)
        self.middle = layer.conv_norm(
            spatial_dims, channels, channels, kernel_size, norm, stride=middle, dilation=dilation
        )
        self.expand = layer.conv_norm(spatial_dims, channels, out_channels, 1, norm, relu=False)
        if norm != "none":
            # Fresh residuals are small, or the sum over 50 blocks would explode until the statistics are learned.
            nn.init.constant_(self.expand[1].weight, _FRESH_RESIDUAL)  # type: ignore[arg-type]
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or max(per_axis(stride, spatial_dims)) > 1:
            self.shortcut = layer.conv_norm(spatial_dims, in_channels, out_channels, 1, norm, stride=stride, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *strided"]:
        """The block's map: the residual added to the shortcut, rectified."""
        out: Tensor = self.relu(self.expand(self.middle(self.reduce(x))) + self.shortcut(x))
        return out


def bottlenecks(
    spatial_dims: int,
    in_channels: int,
    channels: int,
    *,
    stride: PerAxis = 1,
    dilations: Sequence[PerAxis],
    stride_on: str,
    norm: Norm,
    kernel_size: PerAxis,
) -> nn.Sequential:
    """A stage: one block for each entry of `dilations`, the first of which takes the stride."""
    blocks = []
    for index, dilation in enumerate(dilations):
        blocks.append(
            Bottleneck(
                spatial_dims,
                in_channels,
                channels,
                stride=1 if index else stride,
                dilation=dilation,
                stride_on=stride_on,
                norm=norm,
                kernel_size=kernel_size,
            )
        )
        in_channels = _EXPANSION * channels
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Image to the maps of res2, res3, res4 and res5, which `stages` declares in this order.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        depth: 50, 101, 152, or the number of blocks of each of the four stages.
        width: Multiplier of all channels, those of the head on top among them; by default 1 in 2D and 1/4 in 3D.
        stem: "plain" (7×7, 64), "deep" (three 3×3: 64, 64, 128) or "mmsegmentation" (three 3×3: 32, 32, 64).
        stride_on: The convolution of a stage's first block that takes the stride: the first "1x1", as in Caffe's
            models, or the "3x3", as in torchvision's.
        output_stride: 32, or 16, 8 or 4: so many of the last stages give up their stride and dilate instead.
        first_block: How a dilated stage's first block is dilated: "alike" all others, as the authors do, or by the
            "previous" stage's rate, as torchvision and mmsegmentation do.
        multi_grid: Factors of the dilation of res5's blocks, repeated as often as needed (arXiv 1706.05587, 3.2.1).
        ceil_mode: Whether pooling rounds sizes up, as in Caffe.
        norm: One of `layers.NORMS`; "frozen_batch" keeps the statistics, scales and offsets of loaded weights.
        kernel_size: Of the 3×3 convolutions, one for all axes or one an axis; where it is 1, stem and pooling look
            along that axis at 1 voxel too.
        strides: Of stem, pooling, res3, res4 and res5: one for all, or one each, each an integer or one an axis
            (such as (2, 2, 1) where slices are thick).

    Attributes:
        stages: Channels and stride of each map.
        dilation: Of res5, without the multi-grid factors.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        depth: int | Sequence[int] = 101,
        width: float | None = None,
        stem: str = "plain",
        stride_on: str = "3x3",
        output_stride: int = 32,
        first_block: str = "alike",
        multi_grid: Sequence[int] = (1,),
        ceil_mode: bool = False,
        norm: Norm = "batch",
        kernel_size: PerAxis = 3,
        strides: PerAxis | Sequence[PerAxis] = 2,
    ) -> None:
        super().__init__()
        _check("stem", stem, tuple(_STEMS))
        _check("stride_on", stride_on, ("1x1", "3x3"))
        _check("first_block", first_block, ("alike", "previous"))
        _check("output_stride", output_stride, (4, 8, 16, 32))
        self.spatial_dims = spatial_dims
        self.width = by_dims(spatial_dims, 1.0, 0.25) if width is None else width
        self.stride_on, self.first_block, self.ceil_mode = stride_on, first_block, ceil_mode
        self.output_stride, self.multi_grid = output_stride, tuple(multi_grid)
        self.norm, self.kernel_size = norm, kernel_size
        self.strides = per_level(strides, 5, spatial_dims, "strides")

        channels = self._stem(stem, in_channels)
        reach = [min(k, 3) for k in per_axis(kernel_size, spatial_dims)]
        self.pool = layer.max_pool(
            spatial_dims, reach, stride=self.strides[1], padding=[k // 2 for k in reach], ceil_mode=ceil_mode
        )
        total = [a * b for a, b in zip(self.strides[0], self.strides[1], strict=True)]
        dilation = (1,) * spatial_dims
        dilated = {32: 0, 16: 1, 8: 2, 4: 3}[output_stride]
        self.layers = nn.ModuleList()
        stages = []
        for index, (blocks, stride) in enumerate(
            zip(_blocks(depth), [(1,) * spatial_dims, *self.strides[2:]], strict=True)
        ):
            previous = dilation
            if index >= 4 - dilated:
                dilation = tuple(d * s for d, s in zip(dilation, stride, strict=True))
                stride = (1,) * spatial_dims  # noqa: PLW2901  # given up for dilation
            total = [t * s for t, s in zip(total, stride, strict=True)]
            rates = [previous if first_block == "previous" else dilation, *[dilation] * (blocks - 1)]
            grid = multi_grid if index == 3 else (1,)
            planes = self.scaled(64 << index)
            self.layers.append(
                bottlenecks(
                    spatial_dims,
                    channels,
                    planes,
                    stride=stride,
                    dilations=[[d * grid[i % len(grid)] for d in rate] for i, rate in enumerate(rates)],
                    stride_on=stride_on,
                    norm=norm,
                    kernel_size=kernel_size,
                )
            )
            channels = _EXPANSION * planes
            stages.append(Stage(channels, tuple(total)))
        self.stages, self.dilation = tuple(stages), dilation

    def forward(self, x: Float[Tensor, "b c *space"]) -> list[Tensor]:
        """Image to its maps, finest first."""
        x = self.pool(self.stem(x))
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        return features

    def scaled(self, channels: int) -> int:
        """The paper's number of channels times the width multiplier."""
        return max(1, round(channels * self.width))

    def _stem(self, stem: str, in_channels: int) -> int:
        """Build the convolutions before the pooling, and return their channels."""
        kernel = [1 if k == 1 else (7 if stem == "plain" else 3) for k in per_axis(self.kernel_size, self.spatial_dims)]
        widths = [self.scaled(channels) for channels in _STEMS[stem]]
        units: list[nn.Module] = []
        for index, (inputs, channels) in enumerate(zip([in_channels, *widths[:-1]], widths, strict=True)):
            stride = 1 if index else self.strides[0]
            units += layer.conv_norm(self.spatial_dims, inputs, channels, kernel, self.norm, stride=stride)
        self.stem = nn.Sequential(*units)
        return widths[-1]


def _blocks(depth: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(depth, int) and depth not in _BLOCKS:
        raise ValueError(f"depth {depth} is neither 50, 101 nor 152")
    blocks = _BLOCKS[depth] if isinstance(depth, int) else tuple(depth)
    if len(blocks) != 4 or min(blocks) < 1:
        raise ValueError(f"depth {depth} is not four numbers of blocks")
    return blocks


def _check(what: str, value: object, possible: Sequence[object]) -> None:
    if value not in possible:
        raise ValueError(f"{what} {value!r} is unknown; there are: {', '.join(map(str, possible))}")
