"""Public checkpoints from a local file: .pth (weights-only unpickling, never more) or safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medseg.convention import InputConvention
from medseg.errors import InputError, ModelError
from medseg.networks.checkpoint_layouts import ADAPTERS, Adapter, State
from medseg.networks.inflation import beyond_plane, inflated, require_fit
from medseg.study import Finding


@dataclass(frozen=True)
class CheckpointReport:
    """What was loaded.

    Attributes:
        layout: Name of the key layout.
        convention: The input that the network now expects.
        findings: What was adapted, left out or is doubtful.
    """

    layout: str
    convention: InputConvention
    findings: tuple[Finding, ...]


def load_checkpoint(network: nn.Module, path: str | Path, *, inflation: str = "centre") -> CheckpointReport:
    """Load a public checkpoint into a network that is built to match it.

    A network in 3D takes the file's 2D kernels by inflation. Other numbers of input channels or classes than the
    file's are adapted, and findings say so; the head's weights that depend on the classes then stay as they are.

    Args:
        network: Receives the weights.
        path: A .pth or .pt file, or safetensors.
        inflation: How a 3D network takes 2D kernels.

    Raises:
        InputError: If the file is missing or damaged, or holds more than weights.
        ModelError: If its key layout is unknown, or a key is missing, surplus or misshapen; it names the keys.
    """
    path = Path(path)
    state = read_state(path)
    adapter = layout_of(state)
    if adapter is None:
        known = ", ".join(a.name for a in ADAPTERS)
        raise ModelError(
            f"{path.name} has a key layout that is unknown (first key {next(iter(state))!r}); known: {known}."
        )
    findings = [Finding("convention-uncertain", adapter.doubt)] if adapter.doubt else []
    own = network.state_dict()
    state = adapter.translate(state)
    state = _without_auxiliary(state, own, findings)
    state = _channels_adapted(state, own, findings)
    if adapter.classifier in state and adapter.classifier in own:
        classes = len(state[adapter.classifier]), len(own[adapter.classifier])
        state = classes_adapted(state, own, classes, findings)
    if any(tensor.ndim == 5 for tensor in own.values()):
        findings.append(Finding("inflated", f"The 2D kernels of {path.name} were inflated ({inflation})."))
        state = inflated(state, network, inflation)
        state |= {key: value for key, value in beyond_plane(network).items() if key.startswith(adapter.covers)}
    state = _offers_taken(state, own, adapter, findings)
    # Files from before 2018 have no such count; and what the file is not for stays as it is.
    kept = {k: v for k, v in own.items() if k.endswith("num_batches_tracked") or not k.startswith(adapter.covers)}
    findings += _differences(network, adapter)
    require_fit({**kept, **state}, network, f"{path.name} ({adapter.name})", _advice(adapter))
    network.load_state_dict({**kept, **state})
    return CheckpointReport(adapter.name, adapter.convention, tuple(findings))


def layout_of(state: State) -> Adapter | None:
    """The public layout whose names these are; None for another's."""
    return next((adapter for adapter in ADAPTERS if all(mark in state for mark in adapter.marks)), None)


def read_state(path: Path) -> State:
    """The tensors of a file by its own names.

    Raises:
        InputError: If the file is missing or damaged, or holds more than weights.
        ModelError: If it holds no mapping of names to tensors.
    """
    return _unwrapped(_read(path), path.name)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"Checkpoint {path} does not exist; give the path of a local file.") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"Checkpoint {path} holds more than weights, which is not unpickled; save its state_dict alone, or as "
            "safetensors."
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise InputError(f"Checkpoint {path} cannot be read, it may be damaged; fetch it again.") from error


def _unwrapped(content: Any, name: str) -> State:
    """The tensors themselves, without the wrappers of training code and of data parallelism."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{name} is no mapping of names to tensors; save the network's state_dict.")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _without_auxiliary(state: State, own: State, findings: list[Finding]) -> State:
    second = [key for key in state if key.startswith("auxiliary.")]
    if not second or any(key.startswith("auxiliary.") for key in own):
        return state
    findings.append(
        Finding("auxiliary-left-out", f"The network has no auxiliary head; {len(second)} tensors of it were left out.")
    )
    return {key: tensor for key, tensor in state.items() if key not in second}


def _offers_taken(state: State, own: State, adapter: Adapter, findings: list[Finding]) -> State:
    """Layers that a file of a backbone has besides go where the network has the same, and are left out elsewhere."""
    for prefix in adapter.offers:
        theirs = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
        if all(key in own and own[key].shape == tensor.shape for key, tensor in theirs.items()):
            continue
        rest = {key: tensor for key, tensor in state.items() if key not in theirs}
        state = rest | {key: tensor for key, tensor in own.items() if key.startswith(prefix)}
        text = f"The network has no {prefix[:-1]} of the file's shape; what it has there stays as it was built."
        findings.append(Finding("head-left-out", text))
    return state


def _channels_adapted(state: State, own: State, findings: list[Finding]) -> State:
    """Kernels on the three colours become kernels on the network's channels: the mean, for each of them."""
    result = dict(state)
    for key, tensor in state.items():
        target = own.get(key)
        if target is None or tensor.ndim < 4 or tensor.shape[1] != 3 or target.shape[1] == 3:
            continue
        result[key] = tensor.mean(1, keepdim=True).repeat(1, target.shape[1], *[1] * (tensor.ndim - 2))
        findings.append(
            Finding("channels-adapted", f"{key} takes {target.shape[1]} channels, each by the mean over the file's 3.")
        )
    return result


def classes_adapted(state: State, own: State, classes: tuple[int, int], findings: list[Finding]) -> State:
    """Where the file has other classes than the network, what depends on them keeps the network's fresh weights.

    Args:
        state: The file's tensors, by the network's names.
        own: The network's.
        classes: How many the file and the network have.
        findings: Takes what was left fresh.
    """
    theirs, ours = classes
    if theirs == ours:
        return state

    def fresh(key: str) -> bool:
        pairs = list(zip(state[key].shape[:2], own[key].shape[:2], strict=True)) if key in own else []
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        return bool(differing) and all(pair == (theirs, ours) for pair in differing)

    keys = [key for key in state if fresh(key)]
    findings.append(
        Finding(
            "classes-differ",
            f"The file has {theirs} classes, the network {ours}; these weights are fresh: {', '.join(keys)}.",
        )
    )
    return {key: own[key] if key in keys else tensor for key, tensor in state.items()}


def _differences(network: nn.Module, adapter: Adapter) -> list[Finding]:
    """Where the network computes otherwise than the authors' although every shape fits."""
    backbone = getattr(network, "backbone", network)
    found = []
    for name, expected in adapter.structure.items():
        actual = getattr(network, name, getattr(backbone, name, expected))
        if actual != expected:
            found.append(
                Finding(
                    "structure-differs", f"The file was trained with {name}={expected!r}, the network has {actual!r}."
                )
            )
    return found


def _advice(adapter: Adapter) -> str:
    name, settings = adapter.build
    if name is None:
        return f"Build the network with the file's depth, width=1 and norm={settings['norm']!r}."
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    return f"Build it as build({name!r}{given}, width=1, ...)."
