"""PSPNet: Zhao et al., arXiv 1612.01105, figures 3 (pyramid pooling) and 4 (auxiliary loss)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from medseg.networks.context import PlainHead, PyramidPooling
from medseg.networks.layers import PerAxis
from medseg.networks.resnet import ResNet, ResNetSettings
from medseg.networks.segmenter import Segmenter

# The backbone as the authors and as mmsegmentation build it.
VARIANTS: dict[str, ResNetSettings] = {
    "paper": {"stem": "deep", "output_stride": 8},
    "mmsegmentation": {"stem": "mmsegmentation", "output_stride": 8, "first_block": "previous"},
}


class PSPNet(Segmenter):
    """ResNet at stride 8, its last map with its averages over 1, 2, 3 and 6 bins, and a head on both.

    In training a second head sits on res4's map.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        variant: "paper", or "mmsegmentation" for its narrower stem, its first blocks and corners not aligned.
        bins: Of the pyramid, an integer or one an axis each.
        auxiliary: Whether there is the second head.
        auxiliary_weight: Of the second head's loss.
        align_corners: Of every interpolation; by default the variant's.
        dropout: Before both classifiers.
        backbone: Settings of `ResNet`, by default the variant's.

    Parameters at 3 channels: 68,073,706 (21 classes) and 68,059,076 (2 classes) in 2D, without the auxiliary head
    65,708,501 and 65,698,754; 9.6 M (2 classes) in 3D at its default width of 1/4.
    Receptive field in 2D: the whole image, by the pooling to one bin.

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
        bins: Sequence[PerAxis] = (1, 2, 3, 6),
        auxiliary: bool = True,
        auxiliary_weight: float = 0.4,
        align_corners: bool | None = None,
        dropout: float = 0.1,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is unknown; there are: {', '.join(VARIANTS)}")
        corners = variant == "paper" if align_corners is None else align_corners
        trunk = ResNet(spatial_dims, in_channels, **(VARIANTS[variant] | backbone))

        def head(take: int, channels: int, context: PyramidPooling | None = None) -> PlainHead:
            return PlainHead(
                spatial_dims,
                trunk.stages,
                take,
                trunk.scaled(channels),
                num_classes,
                kernel_size=trunk.kernel_size,
                norm=trunk.norm,
                dropout=dropout,
                context=context,
            )

        pyramid = PyramidPooling(
            spatial_dims,
            trunk.stages[-1].channels,
            trunk.scaled(512),
            bins=bins,
            norm=trunk.norm,
            align_corners=corners,
        )
        super().__init__(
            trunk,
            head(-1, 512, pyramid),
            align_corners=corners,
            auxiliary=head(-2, 256) if auxiliary else None,
            auxiliary_weight=auxiliary_weight,
        )
