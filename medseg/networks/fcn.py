"""Fully convolutional networks: Long, Shelhamer and Darrell, arXiv 1411.4038, figure 3, as released in Caffe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.layers import PerAxis, by_dims, per_axis
from medseg.networks.vgg import VGG, VGGSettings, fully_connected

_PAPER_PADDING = 100
# The at-once recipe of the release: a skip's map times this, by how many poolings are above it.
_AT_ONCE = {4: 0.01, 3: 0.0001}


class FCNSettings(VGGSettings, total=False):
    """The settings of `FCN32s` that CRF-RNN takes too."""

    fc6_kernel: PerAxis | None
    head_channels: int | None
    dropout: float
    padding: Literal["paper", "same"] | None
    upsampling: Literal["dense", "per_class"] | None
    learn_upsampling: bool
    zero_scores: bool


class _Fusion(nn.Module):
    """Coarse scores upsampled, and the scores of a finer map added where both lie."""

    def __init__(self, up: nn.Module, score: nn.Module, scale: float) -> None:
        super().__init__()
        self.up, self.score, self.scale = up, score, scale

    def forward(
        self, coarse: Float[Tensor, "b n *coarse"], skip: Float[Tensor, "b c *fine"], start: Sequence[int]
    ) -> Float[Tensor, "b n *fused"]:
        """Add; the first upsampled voxel of an axis lies on voxel `start` of the finer map, maybe before its first."""
        up, scores = self.up(coarse), self.score(skip * self.scale if self.scale != 1 else skip)
        for axis, first in enumerate(start, start=2):
            ahead, behind = max(first, 0), max(-first, 0)
            size = min(up.shape[axis] - behind, scores.shape[axis] - ahead)
            up, scores = up.narrow(axis, behind, size), scores.narrow(axis, ahead, size)
        total: Tensor = up + scores
        return total


class FCN32s(nn.Module):
    """VGG read as a convolutional network: scores of the last pooled map, upsampled 32 times in one step.

    With the defaults in 2D it is the released network: the image padded by 100, fc6 without padding, deconvolutions
    that interpolate bilinearly and stay as they are, score layers that start at zero, and the crops that bring the
    scores back over the image (19 pixels here). In 3D a pad of 100 would be most of the volume, so that padding is
    "same" there, and the head smaller.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        fc6_kernel: Odd; 7 in 2D, 3 in 3D by default: one integer or one an axis.
        head_channels: Of fc6 and fc7; 4096 in 2D, 512 in 3D by default.
        dropout: After fc6 and fc7.
        padding: "paper" (2D) or "same" (3D).
        upsampling: "dense" (2D), a kernel for every pair of classes as in the release, or "per_class" (3D).
        learn_upsampling: Train the deconvolutions; the release leaves them bilinear.
        zero_scores: Start the score layers at zero, as in the release, or by He initialisation.
        at_once: Scale the skips' maps as the recipe that trains all streams at once does; for 16s and 8s.
        backbone: Settings of `VGG`.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 136.2 M) and 15.4 M in 3D.
    Receptive field in 2D: 404 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    # Poolings above the maps that are fused, coarsest first.
    fused: ClassVar[tuple[int, ...]] = ()
    # CRF-RNN's first deconvolution has one.
    first_up_has_bias: ClassVar[bool] = False

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
        upsampling: Literal["dense", "per_class"] | None = None,
        learn_upsampling: bool = False,
        zero_scores: bool = True,
        at_once: bool = False,
        **backbone: Unpack[VGGSettings],
    ) -> None:
        super().__init__()
        padding = padding or by_dims(spatial_dims, "paper", "same")
        upsampling = upsampling or by_dims(spatial_dims, "dense", "per_class")
        if padding not in ("paper", "same") or upsampling not in ("dense", "per_class"):
            raise ValueError(
                f"padding {padding!r} is 'paper' or 'same', upsampling {upsampling!r} 'dense' or 'per_class'"
            )
        if at_once and not self.fused:
            raise ValueError("at_once scales skips, and FCN-32s has none")
        self.padding = padding
        fc6 = per_axis(by_dims(spatial_dims, 7, 3) if fc6_kernel is None else fc6_kernel, spatial_dims)
        if not all(k % 2 for k in fc6):
            raise ValueError(f"fc6_kernel {fc6} is not odd, so that its voxels have no centre")
        self.backbone = VGG(
            spatial_dims, in_channels, first_padding=_PAPER_PADDING if padding == "paper" else None, **backbone
        )
        stages = self.backbone.stages
        channels = head_channels or by_dims(spatial_dims, 4096, 512)
        self.head = fully_connected(
            spatial_dims,
            stages[-1].channels,
            channels,
            fc6,
            padding=0 if padding == "paper" else "same",
            dropout=dropout,
        )
        self.score = layer.conv(spatial_dims, channels, num_classes, 1)

        def up(stride: PerAxis, *, bias: bool = False) -> nn.Module:
            return _bilinear_conv(spatial_dims, num_classes, stride, per_channel=upsampling == "per_class", bias=bias)

        self.fusions = nn.ModuleList(
            _Fusion(
                up(self.backbone.strides[pooled], bias=self.first_up_has_bias and pooled == self.fused[0]),
                layer.conv(spatial_dims, stages[pooled - 1].channels, num_classes, 1),
                _AT_ONCE[pooled] if at_once else 1.0,
            )
            for pooled in self.fused
        )
        finest = stages[min(self.fused, default=5) - 1].stride
        self.upscore = up(finest)
        self._align(fc6 if padding == "paper" else (1,) * spatial_dims, finest, padding)
        self._initialise(zero_scores=zero_scores, learn_upsampling=learn_upsampling)

    def _align(self, fc6: tuple[int, ...], finest: tuple[int, ...], padding: str) -> None:
        """Where upsampled scores lie: on the finer map of each fusion, and on the image."""
        origin = tuple((k - 1) // 2 for k in fc6)  # of the scores, on the last pooled map
        self._starts = []
        for pooled in self.fused:
            # The first voxel of an upsampled map lies half a stride before the centre of the voxel it came from.
            strides = self.backbone.strides[pooled]
            start = tuple(s * o - s // 2 for s, o in zip(strides, origin, strict=True))
            self._starts.append(start)
            origin = tuple(max(first, 0) for first in start)
        shift = [_PAPER_PADDING - (k - 1) // 2 if padding == "paper" else 0 for k in self.backbone.kernel]
        self._offset = tuple(s // 2 - s * o + p for s, o, p in zip(finest, origin, shift, strict=True))

    def _initialise(self, *, zero_scores: bool, learn_upsampling: bool) -> None:
        layer.initialise(self)
        fusions = [fusion for fusion in self.fusions if isinstance(fusion, _Fusion)]
        for up in (*(fusion.up for fusion in fusions), self.upscore):
            _fill_bilinear(up)
            up.get_parameter("weight").requires_grad_(learn_upsampling)
        if zero_scores:
            for score in (self.score, *(fusion.score for fusion in fusions)):
                nn.init.zeros_(score.get_parameter("weight"))

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        logits: Tensor = self.upscore(self.forward_features(x))
        for axis, (first, size) in enumerate(zip(self._offset, x.shape[2:], strict=True), start=2):
            logits = logits.narrow(axis, first, size)
        return logits

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *coarse"]:
        """Image to the scores before the last upsampling, at stride 32, 16 or 8."""
        maps: list[Tensor] = self.backbone(x)
        logits: Tensor = self.score(self.head(maps[-1]))
        for fusion, pooled, start in zip(self.fusions, self.fused, self._starts, strict=True):
            logits = fusion(logits, maps[pooled - 1], start)
        return logits


class FCN16s(FCN32s):
    """FCN-32s with the scores of the fourth pooled map added at stride 16 (crops of 5 and 27 in the released network).

    Settings are those of `FCN32s`.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 134.8 M) and 14.9 M in 3D.
    Receptive field in 2D: 404 pixels.
    """

    fused = (4,)


class FCN8s(FCN32s):
    """FCN-16s with the scores of the third pooled map added at stride 8 (crops of 5, 9 and 31 in the released network).

    Settings are those of `FCN32s`; with `at_once` it is the release's voc-fcn8s-atonce.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 134.5 M) and 14.9 M in 3D.
    Receptive field in 2D: 404 pixels.
    """

    fused = (4, 3)


def _bilinear_conv(spatial_dims: int, channels: int, stride: PerAxis, *, per_channel: bool, bias: bool) -> nn.Module:
    """A transposed convolution of the size of a bilinear interpolation, which `_fill_bilinear` makes it."""
    return layer.up_conv(
        spatial_dims,
        channels,
        channels,
        stride,
        kernel_size=[2 * s - s % 2 for s in per_axis(stride, spatial_dims)],
        groups=channels if per_channel else 1,
        bias=bias,
    )


def _fill_bilinear(up: nn.Module) -> None:
    """Let a transposed convolution interpolate every channel by itself (section 3.3)."""
    weight: Tensor = up.get_parameter("weight")
    kernel = torch.ones((), device=weight.device)
    for size in weight.shape[2:]:
        position = torch.arange(size, device=weight.device) - (size - 1) / 2
        kernel = kernel[..., None] * (1 - position.abs() / ((size + 1) // 2))
    # With one kernel a channel the weight has one input channel; else only the diagonal interpolates.
    inputs, outputs = weight.shape[:2]
    own = torch.eye(inputs, device=weight.device) if outputs > 1 else torch.ones(inputs, 1, device=weight.device)
    with torch.no_grad():
        weight.copy_(own.reshape(inputs, outputs, *[1] * kernel.ndim) * kernel)
