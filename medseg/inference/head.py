"""A network's last layer put off until windows have been averaged: exact where it is a 1×1 convolution.

Such a layer is linear, and windows are averaged with weights that sum to one, so averaging its F inputs and applying it
to the average gives the same C logits. Where F is smaller than C, that saves memory and time in every window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.inference.twins import with_parts

# Of the largest logit: what rounding may change.
_TOLERANCE, _TOLERANCE_HALF = 1e-5, 2e-2
_VOXELS = 4096  # on which the parts are compared with the whole


@dataclass(frozen=True, eq=False)
class Head:
    """A 1×1 convolution, as a matrix.

    Attributes:
        weight: (classes, features).
        bias: (classes,).
    """

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"]

    def __call__(self, features: Float[Tensor, "features i j k"]) -> Float[Tensor, "classes i j k"]:
        """Features to logits."""
        logits = torch.addmm(self.bias[:, None], self.weight, features.flatten(1))
        return logits.reshape(-1, *features.shape[1:])


@dataclass(frozen=True, eq=False)
class Split:
    """A network without its last layer, and that layer.

    Attributes:
        body: Image to features, sharing its weights with the whole network.
        head: Features to logits.
    """

    body: nn.Module
    head: Head


def split_head(network: nn.Module, image: Float[Tensor, "b c *space"]) -> tuple[Tensor, Split | None]:
    """Run a network on one window, and find out whether its last layer can be put off.

    The logits of the window, which may take more memory than all else, are never computed where it can.

    Args:
        network: In evaluation mode.
        image: The window.

    Returns:
        Features of the window, and the parts, if the network's output is that of a 1×1 convolution which makes more
        channels than it takes, and on this window the parts give what the whole gave; otherwise the network's output
        and None.
    """
    candidates = {name: module for name, module in network.named_modules() if name and _widens(module)}
    while candidates:
        asked: list[_Probe] = []
        probes = {name: _Probe(module, image.shape[2:], asked) for name, module in candidates.items()}
        try:
            result = _with(network, probes)(image)
        except RuntimeError:  # something is computed in place from the last answer, which holds one number
            if not asked:
                raise
            candidates = {name: probe.conv for name, probe in probes.items() if probe is not asked[-1]}
            continue
        if not asked or not _is_same(asked[-1].given, result):
            break
        name = next(name for name, probe in probes.items() if probe is asked[-1])
        if len(asked) > 1:  # the others' answers went into the features
            candidates = {name: candidates[name]} if asked.count(asked[-1]) == 1 else {}
            continue
        split = Split(_with(network, {name: nn.Identity()}), _head(candidates[name]))
        before = _some(asked[-1].taken)
        asked.clear()  # probes know this list, and would wait for the garbage collector
        del probes, result  # and with them the features, before these are computed again
        features: Tensor = split.body(image)
        if _agree(split.head, features, before, candidates[name]):
            return features, split
        break
    return network(image), None


class _Probe(nn.Module):
    """In a convolution's place: answers in shape alone where that is as large as the image.

    Attributes:
        taken: What it was given.
        given: What it answered: one number, expanded.
    """

    def __init__(self, conv: nn.Module, space: torch.Size, asked: list[_Probe]) -> None:
        super().__init__()
        self.conv, self.space, self.asked = conv, space, asked
        self.taken = self.given = torch.empty(0)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """What the convolution gives, or its shape; notes that it was asked."""
        if x.shape[2:] != self.space:
            result: Tensor = self.conv(x)
            return result
        assert isinstance(self.conv, nn.Conv2d | nn.Conv3d)
        self.asked.append(self)
        self.taken, self.given = x, x.new_zeros(1).expand(len(x), self.conv.out_channels, *self.space)
        return self.given


def _widens(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d | nn.Conv3d)
        and module.out_channels > module.in_channels
        and set(module.kernel_size) == set(module.stride) == {1}
        and module.padding in ("same", "valid", (0,) * len(module.kernel_size))
        and module.groups == 1
        and module.weight.dtype == torch.float32
    )


def _is_same(output: Tensor, result: Tensor) -> bool:
    return result.data_ptr() == output.data_ptr() and result.shape == output.shape


def _head(conv: nn.Module) -> Head:
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    weight = conv.weight.detach().flatten(1).float()
    return Head(weight, weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().float())


def _agree(head: Head, features: Tensor, before: Tensor, conv: nn.Module) -> bool:
    """Whether the head makes of the body's features what the convolution made of what it was given."""
    some = _some(features)
    if some.shape != before.shape:
        return False
    expected = conv(before.reshape(1, *before.shape, *[1] * (features.ndim - 3))).flatten(2)[0].float()
    found = head(some.float()[..., None, None]).flatten(1)
    tolerance = _TOLERANCE if features.dtype == torch.float32 else _TOLERANCE_HALF
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def _some(features: Tensor) -> Tensor:
    """Features of some thousand voxels spread over a window (channels, voxels), as a copy."""
    return features[0].flatten(1)[:, :: max(features[0, 0].numel() // _VOXELS, 1)].clone()


def _with(network: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """The network with other modules in some places; all others are shared, none is changed."""
    for name, part in parts.items():
        network = _replaced(network, name.split("."), part)
    return network


def _replaced(network: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    if not path:
        return part
    child = network._modules[path[0]]
    assert child is not None
    return with_parts(network, {path[0]: _replaced(child, path[1:], part)})
