"""U-Net: Ronneberger, Fischer and Brox, arXiv 1505.04597, figure 1; in 3D Çiçek et al., arXiv 1606.06650."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.borders import centre_crop, leading_crop, pad
from medseg.networks.layers import Activation, Norm, PerAxis, per_level

# The network of figure 1: valid convolutions, no normalisation, 31.0 M parameters in 2D.
PAPER = {"channels": (64, 128, 256, 512, 1024), "norm": "none", "activation": "relu", "padding": "valid"}


class UNet(nn.Module):
    """Contracting path, expanding path, and a skip connection at every level.

    The default is the everyday form: same padding, instance normalisation, leaky ReLU. `UNet(..., **PAPER)` is the
    paper's: valid convolutions (572² in, 388² out of `forward_features`), to which `forward` adds the paper's
    mirrored border, so that logits always have the input's own size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        channels: Width of each level, top to bottom; their number is the depth.
        strides: Pooling between neighbouring levels: one for all, or one a level, each an integer or one an axis
            (such as (2, 2, 1) where slices are thick).
        kernel_size: Of the convolutions: one for all levels, or one a level, each an integer or one an axis.
        norm: "instance", "batch", "group" or "none".
        activation: "leaky_relu", "relu", "elu" or "gelu".
        padding: "same" or, as in the paper, "valid".
        dropout: Probability that a channel of the lowest level is dropped in training.

    Parameters at 1 channel and 2 classes: 7.8 M in 2D and 22.6 M in 3D by default; 31.0 M in 2D as in the paper.
    Receptive field in 2D: 204 pixels.

    Raises:
        ValueError: If a setting is unknown, or strides and levels do not fit together.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        strides: PerAxis | Sequence[PerAxis] = 2,
        kernel_size: PerAxis | Sequence[PerAxis] = 3,
        norm: Norm = "instance",
        activation: Activation = "leaky_relu",
        padding: str = "same",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) < 1 or padding not in ("same", "valid"):
            raise ValueError(f"channels {channels} need at least one level, padding {padding!r} is 'same' or 'valid'")
        self.spatial_dims, self.padding = spatial_dims, padding
        self.strides = per_level(strides, len(channels) - 1, spatial_dims, "strides")
        self.kernels = per_level(kernel_size, len(channels), spatial_dims, "kernel_size")

        def block(level: int, inputs: int) -> nn.Sequential:
            """Two convolutions of this level's width, each with its normalisation and nonlinearity."""
            units: list[nn.Module] = []
            for width in (inputs, channels[level]):
                # A normalisation takes the mean away again, so an offset before it would be dead weight.
                units += [
                    layer.conv(
                        spatial_dims,
                        width,
                        channels[level],
                        self.kernels[level],
                        padding="same" if padding == "same" else 0,
                        bias=norm == "none",
                    ),
                    layer.norm(norm, spatial_dims, channels[level]),
                    layer.activation(activation),
                ]
            return nn.Sequential(*units)

        self.down = nn.ModuleList(block(level, inputs) for level, inputs in enumerate((in_channels, *channels[:-1])))
        self.pools = nn.ModuleList(layer.max_pool(spatial_dims, s, ceil_mode=padding == "same") for s in self.strides)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(
            layer.up_conv(spatial_dims, channels[level + 1], channels[level], self.strides[level])
            for level in range(len(channels) - 1)
        )
        self.merge = nn.ModuleList(block(level, 2 * channels[level]) for level in range(len(channels) - 1))
        self.head = layer.conv(spatial_dims, channels[0], num_classes, 1)
        layer.initialise(self)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        size = x.shape[2:]
        if self.padding == "valid":
            margins = [self._margins(n, axis) for axis, n in enumerate(size)]
            x = pad(x, [low for low, _ in margins], [high for _, high in margins])
        return centre_crop(self.forward_features(x), size)

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *valid"]:
        """Image to logits as the convolutions leave them: smaller than the image where padding is "valid".

        Raises:
            ValueError: If padding is "valid" and the image has a size whose pooled maps do not divide evenly.
        """
        skips = []
        for level, block in enumerate(self.down):
            x = block(self.pools[level - 1](x) if level else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for level in reversed(range(len(self.up))):
            x, skip = self.up[level](x), skips.pop()
            if self.padding == "same":
                x = leading_crop(x, skip.shape[2:])
            else:
                skip = centre_crop(skip, x.shape[2:])
            x = self.merge[level](torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def _margins(self, size: int, axis: int) -> tuple[int, int]:
        """Mirrored voxels before and after one axis, so that at least `size` logits remain."""
        # From the bottom up: the smallest bottom whose output covers `size`, then what had to go in for it.
        loss = [2 * (kernel[axis] - 1) for kernel in self.kernels]
        strides = [stride[axis] for stride in self.strides]
        bottom, out = 0, 0
        while out < size:
            bottom += 1
            out = bottom
            for level in reversed(range(len(strides))):
                out = out * strides[level] - loss[level]
        needed = bottom + loss[-1]
        for level in reversed(range(len(strides))):
            needed = needed * strides[level] + loss[level]
        extra, surplus = needed - size, out - size
        low = (extra - surplus) // 2 + surplus // 2
        return low, extra - low
