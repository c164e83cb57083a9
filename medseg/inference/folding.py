"""Batch normalisation folded into the convolution before it: at inference both are linear, so one layer does."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medseg.inference.twins import with_parts

_PLAIN = (nn.Conv2d, nn.Conv3d)


def folded(network: nn.Module) -> nn.Module:
    """A network that gives the same, to rounding, with fewer layers.

    Args:
        network: In evaluation mode; it stays as it is, and what is not folded is shared with it.

    Returns:
        The network with every batch normalisation that follows a convolution in a sequence made part of it; itself if
        there is none.
    """
    parts = {name: part if part is None else folded(part) for name, part in network._modules.items()}
    if isinstance(network, nn.Sequential):
        names = list(parts)
        for name, following in pairwise(names):
            conv, norm = parts[name], parts[following]
            # Other kinds of convolution may do more than convolve.
            if isinstance(conv, nn.Conv2d | nn.Conv3d) and type(conv) in _PLAIN and isinstance(norm, _BatchNorm):
                parts[name], parts[following] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return with_parts(network, parts)
