"""DeepLab v3: Chen et al., arXiv 1706.05587, figures 3 (cascade of blocks) and 5 (pyramid with image pooling)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.context import ConcatenatedASPP, PlainHead
from medseg.networks.resnet import ResNet, ResNetSettings, bottlenecks
from medseg.networks.segmenter import Segmenter


class _Variant(NamedTuple):
    """What differs between those who build the network.

    Attributes:
        backbone: Their settings of `ResNet`.
        channels: Width of the head.
        fuse: Kernel of the convolution before the classifier.
        project: Whether the pyramid's branches are first joined by a 1×1 convolution of their own.
        dropout: Before the classifier.
        auxiliary: Whether res4 has a head in training.
        align_corners: Of the interpolations.
    """

    backbone: ResNetSettings
    channels: int
    fuse: int
    project: bool
    dropout: float
    auxiliary: bool
    align_corners: bool


VARIANTS = {
    "paper": _Variant({"output_stride": 16, "multi_grid": (1, 2, 4)}, 256, 1, False, 0.0, False, True),
    "torchvision": _Variant({"output_stride": 8, "first_block": "previous"}, 256, 3, True, 0.0, True, False),
    "mmsegmentation": _Variant(
        {"output_stride": 8, "first_block": "previous", "stem": "mmsegmentation"}, 512, 3, False, 0.1, True, False
    ),
}


class DeepLabV3(Segmenter):
    """ResNet at stride 16 or 8, and a pyramid of 1×1, dilated convolutions and image pooling, concatenated.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        variant: "paper", or as "torchvision" or "mmsegmentation" build it: stride 8 without multi-grid, another
            convolution before the classifier, an auxiliary head, and corners not aligned.
        rates: Dilations of the pyramid at output stride 16; doubled at 8.
        auxiliary: Whether res4 has a head in training; by default the variant's.
        auxiliary_weight: Of its loss (torchvision's recipe has 0.5).
        align_corners: Of every interpolation; by default the variant's.
        backbone: Settings of `ResNet`, by default the variant's.

    Parameters at 3 channels: 58,040,661 (21 classes) and 58,035,778 (2 classes) in 2D, torchvision's 60,996,202 and
    60,986,436; 8.1 M (2 classes) in 3D at its default width of 1/4.
    Receptive field in 2D: the whole image, by image pooling.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        variant: str = "paper",
        rates: Sequence[int] = (6, 12, 18),
        auxiliary: bool | None = None,
        auxiliary_weight: float = 0.4,
        align_corners: bool | None = None,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is unknown; there are: {', '.join(VARIANTS)}")
        chosen = VARIANTS[variant]
        corners = chosen.align_corners if align_corners is None else align_corners
        trunk = ResNet(spatial_dims, in_channels, **(chosen.backbone | backbone))
        channels = trunk.scaled(chosen.channels)
        pyramid = ConcatenatedASPP(
            spatial_dims,
            trunk.stages[-1].channels,
            channels,
            rates=[max(1, rate * 16 // trunk.output_stride) for rate in rates],
            kernel_size=trunk.kernel_size,
            norm=trunk.norm,
            align_corners=corners,
            project=chosen.project,
        )
        head = PlainHead(
            spatial_dims,
            trunk.stages,
            -1,
            channels,
            num_classes,
            kernel_size=trunk.kernel_size if chosen.fuse > 1 else 1,
            norm=trunk.norm,
            dropout=chosen.dropout,
            context=pyramid,
        )
        second = PlainHead(
            spatial_dims,
            trunk.stages,
            -2,
            trunk.scaled(256),
            num_classes,
            kernel_size=trunk.kernel_size,
            norm=trunk.norm,
            dropout=0.1,
        )
        super().__init__(
            trunk,
            head,
            align_corners=corners,
            auxiliary=second if (chosen.auxiliary if auxiliary is None else auxiliary) else None,
            auxiliary_weight=auxiliary_weight,
        )


CASCADE: ResNetSettings = {"output_stride": 16, "multi_grid": (1, 2, 1)}


class DeepLabV3Cascade(Segmenter):
    """ResNet whose last block is replicated with ever larger dilation, and 1×1 to the classes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        blocks: Replicas of block 4: 3 is the paper's block7; each doubles the rate of the one before.
        align_corners: Of the interpolation to the image's size.
        backbone: Settings of `ResNet`, by default those of `CASCADE`; the multi-grid is the replicas' too.

    Parameters at 3 channels: 82,706,517 (21 classes) and 82,667,586 (2 classes) in 2D; 10.5 M (2 classes) in 3D at
    its default width of 1/4.
    Receptive field in 2D: 4651 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        blocks: int = 3,
        align_corners: bool = True,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        trunk = ResNet(spatial_dims, in_channels, **(CASCADE | backbone))
        super().__init__(trunk, _Cascade(trunk, blocks, num_classes), align_corners=align_corners)


class _Cascade(nn.Module):
    """Replicas of res5 on top of it, and the classifier."""

    def __init__(self, trunk: ResNet, blocks: int, num_classes: int) -> None:
        super().__init__()
        channels = trunk.stages[-1].channels
        self.blocks = nn.Sequential(
            *(
                bottlenecks(
                    trunk.spatial_dims,
                    channels,
                    channels // 4,
                    dilations=[[rate * 2**index * factor for rate in trunk.dilation] for factor in trunk.multi_grid],
                    stride_on=trunk.stride_on,
                    norm=trunk.norm,
                    kernel_size=trunk.kernel_size,
                )
                for index in range(1, blocks + 1)
            )
        )
        self.classifier = layer.conv(trunk.spatial_dims, channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b classes *strided"]:
        """The backbone's maps to logits."""
        logits: Tensor = self.classifier(self.blocks(features[-1]))
        return logits
