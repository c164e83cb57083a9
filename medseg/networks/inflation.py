"""A 3D network starts from the weights of a 2D one.

centre: the 2D kernel in the middle slice, zeros elsewhere. On a volume that is constant in depth the 3D network then
    gives the 2D logits in every slice. Two exceptions: SegNet where depth is pooled, since a maximum goes back to one
    slice alone; and padding="paper" of the FCNs in 3D, whose border of zeros is no continuation in depth.
mean: the 2D kernel in every slice, divided by their number (I3D, arXiv 1705.07750). As padding is zeros in depth
    too, borders see less than a 2D network would.
    (Either way a transposed convolution repeats slices in depth.)
acs: the 2D kernel in the middle of the axial plane for the first third of the output channels, of the coronal plane
    for the second, of the sagittal plane for the rest (arXiv 1911.10477); where the 3D kernel is no cube, centre.

The third spatial axis, K, is the one that is added.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medseg.errors import ModelError

INFLATIONS = ("centre", "mean", "acs")


def inflate(state_dict_2d: Mapping[str, Tensor], network_3d: nn.Module, how: str = "centre") -> dict[str, Tensor]:
    """Load the weights of a 2D network into the same network in 3D.

    Args:
        state_dict_2d: Of a network built with `spatial_dims=2` and otherwise the settings of `network_3d`, its width
            among them.
        network_3d: Receives the weights.
        how: "centre", "mean" or "acs"; see the module's docstring.

    Returns:
        The state that `network_3d` now has.

    Raises:
        ModelError: If `how` is unknown, or a key is missing, surplus, or of a shape that does not fit.
    """
    state = inflated(state_dict_2d, network_3d, how) | beyond_plane(network_3d)
    require_fit(state, network_3d, "The 2D state")
    network_3d.load_state_dict(state)
    return state


def inflated(state: Mapping[str, Tensor], network: nn.Module, how: str) -> dict[str, Tensor]:
    """The tensors of `state`, kernels that have one axis less than those of `network` with a third axis.

    Raises:
        ModelError: If `how` is unknown.
    """
    if how not in INFLATIONS:
        raise ModelError(f"Inflation {how!r} is unknown; there are: {', '.join(INFLATIONS)}.")
    result = dict(state)
    transposed = {
        f"{name}.weight".lstrip("."): m for name, m in network.named_modules() if isinstance(m, nn.ConvTranspose3d)
    }
    for key, target in network.state_dict().items():
        if key in state and state[key].ndim == 4 and target.ndim == 5:
            if key in transposed:
                profile = _repeating(target.shape[-1], transposed[key].stride[-1])
                result[key] = state[key].unsqueeze(-1) * profile.to(state[key])
            else:
                result[key] = _kernel(state[key], tuple(target.shape[2:]), how)
    return result


def beyond_plane(network: nn.Module) -> dict[str, Tensor]:
    """The weights that only the network's 3D form has, so that it starts as its 2D form on every plane."""
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if hasattr(module, "beyond_plane"):
            found |= {f"{name}.{key}": value for key, value in module.beyond_plane().items()}
    return found


def require_fit(state: Mapping[str, Tensor], network: nn.Module, what: str, advice: str = "") -> None:
    """Check that `state` has exactly the network's keys and shapes.

    Raises:
        ModelError: If not; it names the keys that are missing, surplus or misshapen.
    """
    own = network.state_dict()
    wrong = {
        "lacks": [key for key in own if key not in state],
        "has surplus": [key for key in state if key not in own],
        "has of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
            for key, tensor in own.items()
            if key in state and state[key].shape != tensor.shape
        ],
    }
    complaints = [f"{verb} {len(keys)}: {_few(keys)}" for verb, keys in wrong.items() if keys]
    if complaints:
        advice = advice or "Build both networks with the same settings."
        raise ModelError(f"{what} does not fit the network: it {'; it '.join(complaints)}. {advice}")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _kernel(weight: Tensor, size: tuple[int, ...], how: str) -> Tensor:
    """A 2D kernel (O, I, *plane) as a 3D one of `size`; as it is where it does not fit."""
    if tuple(weight.shape[2:]) != size[:2]:
        return weight
    if how == "mean":
        return weight.unsqueeze(-1).repeat(1, 1, 1, 1, size[2]) / size[2]
    out = weight.new_zeros(*weight.shape[:2], *size)
    # The axis across each plane: axial, and for a cube coronal and sagittal.
    across = (4, 3, 2) if how == "acs" and len(set(size)) == 1 else (4,)
    for axis, channels in zip(across, torch.arange(len(weight)).tensor_split(len(across)), strict=True):
        out.select(axis, size[axis - 2] // 2)[channels] = weight[channels]
    return out


def _repeating(size: int, stride: int) -> Tensor:
    """Weights in depth of a transposed convolution: each slice `stride` times, and nothing beyond.

    Not linear interpolation, which finds no second slice before the first one and after the last.
    """
    weights, before = torch.zeros(size), (size - stride) // 2
    weights[before : before + stride] = 1
    return weights
