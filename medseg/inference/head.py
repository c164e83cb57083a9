"""A network's last layer put off until windows have been averaged: exact where it is a 1×1 convolution.

Such a layer is linear, and windows are averaged with weights that sum to one, so averaging its F inputs and applying it
to the average gives the same C logits. Where F is smaller than C, that saves memory and time in every window.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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

    Args:
        network: In evaluation mode.
        image: The window.

    Returns:
        Features of the window, and the parts, if the network's output is in shape and place that of a 1×1 convolution
        which makes more channels than it takes, and on this window the parts together give what the whole gave;
        otherwise the network's output and None.
    """
    seen: dict[str, list[Tensor]] = {}
    candidates = {name: module for name, module in network.named_modules() if name and _widens(module)}

    def watch(name: str) -> RemovableHandle:
        def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(name, []).append(output)

        handle: RemovableHandle = candidates[name].register_forward_hook(note)
        return handle

    handles = [watch(name) for name in candidates]
    try:
        result: Tensor = network(image)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in seen.items():
        if len(outputs) == 1 and _is_same(outputs[0], result):
            split = _split(network, name, candidates[name])
            features: Tensor = split.body(image)
            if _agree(split.head, features, result):
                return features, split
    return result, None


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


def _split(network: nn.Module, name: str, conv: nn.Module) -> Split:
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    weight = conv.weight.detach().flatten(1).float()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().float()
    return Split(_without(network, name.split(".")), Head(weight, bias))


def _agree(head: Head, features: Tensor, result: Tensor) -> bool:
    if features.shape[2:] != result.shape[2:] or features.shape[1] != head.weight.shape[1]:
        return False
    # Some thousand voxels spread over the window: all of them would take as much memory as the logits themselves.
    step = max(features[0, 0].numel() // _VOXELS, 1)
    some, expected = (one[0].flatten(1)[:, ::step].float() for one in (features, result))
    again = head(some[..., None, None]).flatten(1)
    tolerance = _TOLERANCE if result.dtype == torch.float32 else _TOLERANCE_HALF
    return bool((again - expected).abs().max() <= tolerance * expected.abs().max())


def _without(network: nn.Module, path: list[str]) -> nn.Module:
    """The network with one module replaced by the identity; all others are shared, none is changed."""
    if not path:
        return nn.Identity()
    twin = copy.copy(network)
    child = network._modules[path[0]]
    assert child is not None
    twin._modules = {**network._modules, path[0]: _without(child, path[1:])}
    return twin
