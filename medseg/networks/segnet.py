"""SegNet: Badrinarayanan, Kendall and Cipolla, arXiv 1511.00561, figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

from jaxtyping import Float, Int
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.layers import Norm, by_dims
from medseg.networks.vgg import VGG, VGGSettings, unit


class SegNet(nn.Module):
    """VGG's convolutions, mirrored by a decoder that puts each pooled maximum back where it came from.

    With the defaults in 2D it is the published network: 13 + 13 convolutions with bias and batch normalisation, and
    a last one to the classes with neither normalisation nor ReLU. Images of any size go in, since a pooling keeps the
    rest at its end and unpooling restores the size before it. The authors train with cross-entropy weighted by
    median class frequency.

    In 3D a maximum goes back to one slice, so that `inflate` keeps the 2D logits only where depth is not pooled
    (strides of 1 along it).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        backbone: Settings of `VGG`, which the decoder mirrors; `norm`, after every convolution but the last, is "batch"
            in 2D and "group" in 3D by default.

    Parameters at 2 classes: 29.4 M in 2D (at 21: 29.5 M) and 22.1 M in 3D.
    Receptive field in 2D: 392 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        **backbone: Unpack[VGGSettings],
    ) -> None:
        super().__init__()
        kind: Norm = backbone.get("norm") or by_dims(spatial_dims, "batch", "group")
        self.backbone = VGG(spatial_dims, in_channels, **(backbone | VGGSettings(norm=kind)))
        self.pools = nn.ModuleList(
            layer.max_pool(spatial_dims, stride, ceil_mode=True, return_indices=True)
            for stride in self.backbone.strides
        )
        self.decoder = nn.ModuleList()
        # A stage of the decoder changes the channels with its last convolution.
        kernel, outputs = self.backbone.kernel, [stage.channels for stage in self.backbone.stages]
        for level in reversed(range(len(outputs))):
            count = len(self.backbone.blocks[level])  # type: ignore[arg-type]
            widths = [outputs[level]] * count + ([outputs[level - 1]] if level else [])
            self.decoder.append(
                nn.Sequential(
                    *(unit(spatial_dims, inputs, after, kernel, norm=kind) for inputs, after in pairwise(widths))
                )
            )
        self.score = layer.conv(spatial_dims, outputs[0], num_classes, kernel)
        layer.initialise(self)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        logits: Tensor = self.score(self.forward_features(x))
        return logits

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b width *space"]:
        """Image to the map that the last convolution classifies, at the image's own size."""
        memory = []
        for block, pool in zip(self.backbone.blocks, self.pools, strict=True):
            x = block(x)
            size = x.shape[2:]
            x, indices = pool(x)
            memory.append((indices, size))
        for block in self.decoder:
            x = block(_unpool(x, *memory.pop()))
        return x


def _unpool(
    x: Float[Tensor, "b c *pooled"], indices: Int[Tensor, "b c *pooled"], size: Sequence[int]
) -> Float[Tensor, "b c *space"]:
    """Every value where its maximum was found, zero elsewhere."""
    empty = x.new_zeros(*x.shape[:2], *size).flatten(2)
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).reshape(*x.shape[:2], *size)
