"""Convolutions as the CPU computes them fastest: by oneDNN, with the channels last in memory.

torch leaves single small images to a way of its own (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp), which
unfolds them: in 3D most levels of a network take several times as long by it, and much memory.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medseg.inference.twins import with_parts

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class _ByOneDnn:
    """Convolves by oneDNN, whatever the size."""

    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, self.groups)


class _OneDnn2d(_ByOneDnn, nn.Conv2d):  # type: ignore[misc]  # torch's own has wider types
    pass


class _OneDnn3d(_ByOneDnn, nn.Conv3d):  # type: ignore[misc]
    pass


_ONE_DNN: dict[type[nn.Module], type[_ConvNd]] = {nn.Conv2d: _OneDnn2d, nn.Conv3d: _OneDnn3d}


def channels_last(network: nn.Module, *, by_onednn: bool) -> nn.Module:
    """A network whose convolutions have their weights with the channels last in memory.

    Args:
        network: In evaluation mode; it stays as it is, and all but these weights is shared with it.
        by_onednn: Whether plain convolutions of float32 are computed by oneDNN where torch would not.
    """
    if isinstance(network, _ConvNd):
        return _laid_out(network, by_onednn=by_onednn)
    parts = {
        name: part if part is None else channels_last(part, by_onednn=by_onednn)
        for name, part in network._modules.items()
    }
    return with_parts(network, parts)


def laid_out(images: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
    """A copy with the channels last in memory; of a single channel too, which torch else takes for channels first."""
    return images.clone(memory_format=_FORMATS[images.ndim])


def _laid_out(conv: _ConvNd, *, by_onednn: bool) -> nn.Module:
    if conv.weight.ndim not in _FORMATS:
        return conv
    twin = copy.copy(conv)
    weight = conv.weight.detach().contiguous(memory_format=_FORMATS[conv.weight.ndim])
    twin._parameters = {**conv._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    is_plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and weight.dtype == torch.float32
    if by_onednn and is_plain and type(conv) in _ONE_DNN and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        twin.__class__ = _ONE_DNN[type(conv)]  # so it still is what others look for: a convolution
    return twin
