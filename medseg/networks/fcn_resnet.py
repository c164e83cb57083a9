"""FCN on a dilated ResNet, as torchvision publishes it: the plain head of arXiv 1411.4038's idea, without skips."""

from __future__ import annotations

from typing import Unpack

from medseg.networks.context import PlainHead
from medseg.networks.resnet import ResNet, ResNetSettings
from medseg.networks.segmenter import Segmenter

TORCHVISION: ResNetSettings = {"output_stride": 8, "first_block": "previous"}


class FCNResNet(Segmenter):
    """ResNet at stride 8, one 3×3 convolution, and 1×1 to the classes; in training the same on res4's map.

    There is no paper of its own; torchvision's `fcn_resnet101` is the network, and its weights load.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        auxiliary: Whether there is the second head.
        auxiliary_weight: Of the second head's loss.
        align_corners: Of the interpolation to the image's size.
        dropout: Before both classifiers.
        backbone: Settings of `ResNet`, by default those of `TORCHVISION`.

    Parameters at 3 channels: 54,314,346 (21 classes) and 54,299,716 (2 classes) in 2D; 7.6 M (2 classes) in 3D at its
    default width of 1/4.
    Receptive field in 2D: 987 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        auxiliary: bool = True,
        auxiliary_weight: float = 0.5,
        align_corners: bool = False,
        dropout: float = 0.1,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        trunk = ResNet(spatial_dims, in_channels, **(TORCHVISION | backbone))

        def head(take: int) -> PlainHead:
            return PlainHead(
                spatial_dims,
                trunk.stages,
                take,
                max(1, trunk.stages[take].channels // 4),
                num_classes,
                kernel_size=trunk.kernel_size,
                norm=trunk.norm,
                dropout=dropout,
            )

        super().__init__(
            trunk,
            head(-1),
            align_corners=align_corners,
            auxiliary=head(-2) if auxiliary else None,
            auxiliary_weight=auxiliary_weight,
        )
