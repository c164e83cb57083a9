"""DeepLab v1: Chen et al., arXiv 1412.7062: LargeFOV, and with the multi-scale branches of section 4.3 (MSc)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.borders import extend, leading_crop
from medseg.networks.layers import PerAxis, Stage, by_dims
from medseg.networks.vgg import VGG, VGGSettings, fully_connected


class DeepLabV1(nn.Module):
    """VGG-16 with overlapping poolings, the last two without stride, and a dilated fc6 that sees far.

    With the defaults in 2D it is the released DeepLab-LargeFOV. Its poolings lie so that score n is centred on voxel
    8·n; the scores are interpolated between those voxels (corners aligned, as Caffe's Interp layer) and cut to the
    image's size. The paper then runs a dense CRF of 10 iterations, which is `medseg.refine`'s.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        fc6_kernel: Odd: one integer or one an axis; 3 is LargeFOV, 7 the first network of the paper.
        fc6_dilation: One integer or one an axis; 12 is LargeFOV, 4 goes with a kernel of 7.
        head_channels: Of fc6 and fc7; 1024 in 2D, 512 in 3D by default.
        dropout: After fc6 and fc7.
        backbone: Settings of `VGG`, with the strides of its first three poolings; its poolings take its kernel's size.

    Parameters at 2 classes: 20.5 M in 2D (at 21: 20.5 M) and 14.8 M in 3D.
    Receptive field in 2D: 435 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    # Whether scores of the image and of the first four maps are added.
    multi_scale: ClassVar[bool] = False

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        fc6_kernel: PerAxis = 3,
        fc6_dilation: PerAxis = 12,
        head_channels: int | None = None,
        dropout: float = 0.5,
        **backbone: Unpack[VGGSettings],
    ) -> None:
        super().__init__()
        if not all(k % 2 for k in layer.per_axis(fc6_kernel, spatial_dims)):
            raise ValueError(f"fc6_kernel {fc6_kernel} is not odd, so that its voxels have no centre")
        strides = layer.per_level(backbone.get("strides", 2), 3, spatial_dims, "strides")
        self.backbone = VGG(
            spatial_dims,
            in_channels,
            overlapping=True,
            dilations=(1, 1, 1, 1, 2),
            **(backbone | VGGSettings(strides=[*strides, 1, 1])),
        )
        kernel = self.backbone.kernel
        channels = head_channels or by_dims(spatial_dims, 1024, 512)
        self.head = fully_connected(
            spatial_dims,
            self.backbone.stages[-1].channels,
            channels,
            fc6_kernel,
            padding="same",
            dilation=fc6_dilation,
            dropout=dropout,
        )
        self.score = layer.conv(spatial_dims, channels, num_classes, 1)
        self.stride = self.backbone.stages[-1].stride
        sources = [Stage(in_channels, (1,) * spatial_dims), *self.backbone.stages[:4]] if self.multi_scale else []
        self.branches = nn.ModuleList(
            _Branch(
                spatial_dims,
                source.channels,
                self.backbone.stages[1].channels,
                num_classes,
                kernel_size=kernel,
                stride=[whole // own for whole, own in zip(self.stride, source.stride, strict=True)],
                dropout=dropout,
            )
            for source in sources
        )
        layer.initialise(self)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        scores = self.forward_features(x)
        # From the centre of the first score to that of the last, which lies on the last voxel or beyond.
        span = [(n - 1) * s + 1 for n, s in zip(scores.shape[2:], self.stride, strict=True)]
        return leading_crop(layer.resize(scores, span, align_corners=True), x.shape[2:])

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *eighth"]:
        """Image to scores at stride 8, of voxels 0, 8, 16, … to the first that is not before the image's last."""
        maps = self.backbone(x)
        scores: Tensor = self.score(self.head(layer.average(maps[-1], self.backbone.kernel)))  # pool5a
        for branch, source in zip(self.branches, (x, *maps), strict=False):
            scores = scores + branch(source, scores.shape[2:])
        return scores


class _Branch(nn.Module):
    """Two layers and a classifier over one map, brought to stride 8 by the first layer's stride."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            layer.conv(spatial_dims, in_channels, channels, kernel_size, stride=stride),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            layer.conv(spatial_dims, channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            layer.conv(spatial_dims, channels, num_classes, 1),
        )

    def forward(self, x: Float[Tensor, "b c *space"], size: Sequence[int]) -> Float[Tensor, "b classes *eighth"]:
        # Poolings round up and a strided convolution does not: more image behind lets both score the same voxels.
        # At the authors' sizes, 8·n + 1, there is nothing to add.
        missing = [max((n - 1) * s + 1 - have, 0) for n, s, have in zip(size, self.stride, x.shape[2:], strict=True)]
        scores: Tensor = self.layers(extend(x, [0] * len(missing), missing))
        return scores


class DeepLabV1MSc(DeepLabV1):
    """DeepLab-MSc-LargeFOV: scores of the image and of the first four pooled maps are added to those of fc8.

    Each branch is a 3×3 convolution of 128 channels that comes to stride 8 (stride 8 on the image, 4, 2, 1, 1 on the
    maps), a 1×1 of 128 and a 1×1 to the classes, with ReLU and dropout between. `width` multiplies the 128 too; the
    other settings are those of `DeepLabV1`.

    Parameters at 2 classes: 21.7 M in 2D (at 21: 21.7 M) and 15.7 M in 3D.
    Receptive field in 2D: 435 pixels.
    """

    multi_scale = True
