"""DeepLab v2: Chen et al., arXiv 1606.00915, figure 7 (the atrous spatial pyramid) and section 4.1.2 (several scales).

The fully connected CRF that follows in the paper is a refiner of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.context import SummedASPP
from medseg.networks.resnet import ResNet, ResNetSettings
from medseg.networks.segmenter import Segmenter

PAPER: ResNetSettings = {"stride_on": "1x1", "ceil_mode": True, "output_stride": 8}


class DeepLabV2(Segmenter):
    """ResNet at stride 8, four parallel dilated convolutions summed, on the image at several scales.

    The default is the paper's: ResNet-101 of Caffe's form, rates 6, 12, 18, 24, the element-wise maximum of three
    scales that share all weights. In training, the fused logits and those of each scale have a loss each, all of
    weight 1.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        rates: Dilation of each branch of the pyramid.
        scales: At which the image passes the network; the logits have the size of the first scale's.
        fusion: "max" or "mean" of the scales' logits.
        align_corners: Of every interpolation; the PyTorch port deeplab-pytorch was trained with False.
        backbone: Settings of `ResNet`, by default those of `PAPER`.

    Parameters at 3 channels: 44,048,532 (21 classes) and 42,647,624 (2 classes) in 2D; 5.5 M (2 classes) in 3D at its
    default width of 1/4.
    Receptive field in 2D: 1411 pixels, twice as many at half scale.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (1.0, 0.75, 0.5),
        fusion: str = "max",
        align_corners: bool = True,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        if fusion not in ("max", "mean") or not scales or min(scales) <= 0:
            raise ValueError(f"fusion {fusion!r} is 'max' or 'mean', scales {scales} are positive, at least one")
        trunk = ResNet(spatial_dims, in_channels, **(PAPER | backbone))
        super().__init__(
            trunk,
            _LastMap(
                SummedASPP(
                    spatial_dims, trunk.stages[-1].channels, num_classes, rates=rates, kernel_size=trunk.kernel_size
                )
            ),
            align_corners=align_corners,
        )
        self.scales, self.fusion = tuple(scales), fusion

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *strided"]:
        """Image to fused logits at stride 8."""
        return self._fused(self._each_scale(x))

    def training_outputs(self, x: Float[Tensor, "b c *space"]) -> list[tuple[Tensor, float]]:
        """The fused logits and, where there are several, those of each scale; each has a loss of weight 1."""
        each = self._each_scale(x)
        outputs = [self._fused(each), *each] if len(each) > 1 else each
        return [(self.resized(logits, x), 1.0) for logits in outputs]

    def _each_scale(self, x: Tensor) -> list[Tensor]:
        logits: list[Tensor] = []
        for scale in self.scales:
            image = layer.resize(x, [self._scaled(n, scale) for n in x.shape[2:]], align_corners=self.align_corners)
            logits.append(self.head(self.backbone(image)))
        return logits

    def _scaled(self, size: int, scale: float) -> int:
        # With corners aligned, what scales is the distance between the outermost voxels.
        return round((size - 1) * scale) + 1 if self.align_corners else max(1, int(size * scale))

    def _fused(self, each: list[Tensor]) -> Tensor:
        size = each[0].shape[2:]
        stack = torch.stack([layer.resize(logits, size, align_corners=self.align_corners) for logits in each])
        return stack.amax(0) if self.fusion == "max" else stack.mean(0)


class _LastMap(nn.Module):
    """The pyramid on res5's map."""

    def __init__(self, pyramid: SummedASPP) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, features: list[Tensor]) -> Tensor:
        """The backbone's maps to logits."""
        logits: Tensor = self.pyramid(features[-1])
        return logits
