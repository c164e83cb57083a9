"""Dilated convolutions: Yu and Koltun, arXiv 1511.07122: front end (section 4) and context module (section 3)."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.borders import pad
from medseg.networks.layers import PerAxis, by_dims, per_axis
from medseg.networks.vgg import VGG, VGGSettings, fully_connected

# Dilations of the context module's 3×3 convolutions, and their widths in units of the number of classes (table 1).
_DILATIONS = (1, 1, 2, 4, 8, 16, 1)
_WIDTHS = {"basic": (1,) * 8, "large": (2, 2, 4, 8, 16, 32, 32, 1)}
_FC6_DILATION = 4


class FrontendSettings(VGGSettings, total=False):
    """The settings of `DilatedFrontend`, which the network with a context module takes too."""

    fc6_kernel: PerAxis | None
    head_channels: int | None
    dropout: float
    padding: Literal["paper", "same"] | None


class DilatedFrontend(nn.Module):
    """VGG-16 without its last two poolings, dilated in their place: scores at stride 8.

    With the defaults in 2D it is the released network: no convolution pads, the image is mirrored by 186 pixels on
    each side once (and by up to 7 more behind, for a size that 8 does not divide), and the scores are upsampled by a
    fixed bilinear deconvolution. In 3D that border would be most of the volume, so that convolutions pad there.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        fc6_kernel: 7 in 2D, 3 in 3D by default: one integer or one an axis.
        head_channels: Of fc6 and fc7; 4096 in 2D, 512 in 3D by default.
        dropout: After fc6 and fc7.
        padding: "paper" (2D), a mirrored border, or "same" (3D), zeros at every convolution.
        backbone: Settings of `VGG`, with the strides of its first three poolings.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 134.3 M) and 14.8 M in 3D.
    Receptive field in 2D: 380 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        fc6_kernel: PerAxis | None = None,
        head_channels: int | None = None,
        dropout: float = 0.5,
        padding: Literal["paper", "same"] | None = None,
        **backbone: Unpack[VGGSettings],
    ) -> None:
        super().__init__()
        self.padding: Literal["paper", "same"] = by_dims(spatial_dims, "paper", "same") if padding is None else padding
        if self.padding not in ("paper", "same"):
            raise ValueError(f"padding {padding!r} is 'paper' or 'same'")
        strides = layer.per_level(backbone.get("strides", 2), 3, spatial_dims, "strides")
        self.backbone = VGG(
            spatial_dims,
            in_channels,
            dilations=(1, 1, 1, 1, 2),
            padding="same" if self.padding == "same" else "valid",
            **(backbone | VGGSettings(strides=[*strides, 1, 1])),
        )
        fc6 = per_axis(by_dims(spatial_dims, 7, 3) if fc6_kernel is None else fc6_kernel, spatial_dims)
        channels = head_channels or by_dims(spatial_dims, 4096, 512)
        self.head = fully_connected(
            spatial_dims,
            self.backbone.stages[-1].channels,
            channels,
            fc6,
            padding="same" if self.padding == "same" else 0,
            dilation=_FC6_DILATION,
            dropout=dropout,
        )
        self.score = layer.conv(spatial_dims, channels, num_classes, 1)
        self.stride = self.backbone.stages[-1].stride
        self.border = self._border(fc6)
        layer.initialise(self)

    def _border(self, fc6: tuple[int, ...]) -> list[tuple[int, int]]:
        """What the convolutions without padding take from each axis, before and after, in voxels of the image."""
        net = self.backbone
        borders = []
        for axis, (kernel, last) in enumerate(zip(net.kernel, fc6, strict=True)):
            taken, stride = 0, 1
            for block, dilation, pooling in zip(net.blocks, net.dilations, net.strides, strict=True):
                taken += len(block) * (kernel - 1) * dilation * stride  # type: ignore[arg-type]
                stride *= pooling[axis]
            taken += (last - 1) * _FC6_DILATION * stride
            borders.append((taken // 2, taken - taken // 2))
        return borders

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        # The fixed bilinear deconvolution of kernel 16, stride 8 and padding 4.
        return layer.enlarge(self.forward_features(x), self.stride, x.shape[2:])

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *eighth"]:
        """Image to scores at stride 8, as many an axis as 8 voxels fit, rounded up."""
        if self.padding == "paper":
            rest = [-n % stride for n, stride in zip(x.shape[2:], self.stride, strict=True)]
            before = [low for low, _ in self.border]
            x = pad(x, before, [high + more for (_, high), more in zip(self.border, rest, strict=True)])
        scores: Tensor = self.score(self.head(self.backbone(x)[-1]))
        return scores


class ContextModule(nn.Sequential):
    """Class scores to class scores, each seeing 67 × 67 of them: seven 3×3 convolutions, dilated ever more, and a 1×1.

    It starts as the identity (equations 4 and 5).

    Args:
        spatial_dims: 2 or 3.
        num_classes: Channels in and out.
        kind: "basic", with as many channels throughout (28,392 parameters at 21 classes in 2D), or "large".
        kernel_size: One integer or one an axis, 3 as published.
        padding: "paper" pads with zeros by 33 once, before all convolutions; "same" before each.
    """

    def __init__(
        self,
        spatial_dims: int,
        num_classes: int,
        kind: Literal["basic", "large"],
        *,
        kernel_size: PerAxis = 3,
        padding: Literal["paper", "same"] = "paper",
    ) -> None:
        if kind not in _WIDTHS:
            raise ValueError(f"context {kind!r} is unknown; there are: {', '.join(_WIDTHS)}")
        widths = [num_classes, *(num_classes * times for times in _WIDTHS[kind])]
        border = [(k - 1) // 2 * sum(_DILATIONS) for k in per_axis(kernel_size, spatial_dims)]
        units: list[nn.Module] = []
        for n, dilation in enumerate(_DILATIONS):
            margin: PerAxis | Literal["same"] = "same" if padding == "same" else 0 if n else border
            units += [
                layer.conv(spatial_dims, widths[n], widths[n + 1], kernel_size, padding=margin, dilation=dilation),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*units, layer.conv(spatial_dims, widths[-2], widths[-1], 1))
        self.num_classes = num_classes

    def start_as_identity(self) -> None:
        """Set the kernels that pass every class through; noise parts the maps of one class (σ 1 % of the weight)."""
        for module in self:
            if isinstance(module, nn.ReLU):
                continue
            weight = module.get_parameter("weight")
            after, inputs = weight.shape[:2]
            share = self.num_classes / after
            of_input = torch.arange(inputs, device=weight.device) * self.num_classes // inputs
            of_output = torch.arange(after, device=weight.device) * self.num_classes // after
            with torch.no_grad():
                nn.init.normal_(weight, std=0.0 if after == inputs == self.num_classes else 0.01 * share)
                centre = weight.flatten(2)[..., weight[0, 0].numel() // 2]
                centre += share * (of_output[:, None] == of_input)
            nn.init.zeros_(module.get_parameter("bias"))


class Dilated(DilatedFrontend):
    """The front end's scores through a context module, then upsampled: Dilation8 of the paper.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        context: "large" (the VOC release) or "basic".
        context_kernel: Of the context module's convolutions: one integer or one an axis.
        frontend: Settings of `DilatedFrontend`.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 141.1 M) and 15.0 M in 3D.
    Receptive field in 2D: 908 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        context: Literal["large", "basic"] = "large",
        context_kernel: PerAxis = 3,
        **frontend: Unpack[FrontendSettings],
    ) -> None:
        super().__init__(spatial_dims, in_channels, num_classes, **frontend)
        self.context = ContextModule(
            spatial_dims, num_classes, context, kernel_size=context_kernel, padding=self.padding
        )
        self.context.start_as_identity()

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *eighth"]:
        """Image to scores at stride 8, as many an axis as 8 voxels fit, rounded up."""
        scores: Tensor = self.context(super().forward_features(x))
        return scores
