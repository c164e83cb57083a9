"""A network of any architecture with weights from a file, as a model of VOC's 21 classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from medseg.atomic import atomic_path
from medseg.bundle import ModelInfo
from medseg.config import Accepts, ModelCard, NetworkSettings, Preparation, ScaleIntensityRange, Windows
from medseg.convention import InputConvention
from medseg.errors import ModelError
from medseg.model import Model, build_network, load_model
from medseg.networks.checkpoint_layouts import CAFFE, TORCHVISION
from medseg.networks.checkpoints import layout_of, load_checkpoint, read_state
from medseg.study import Finding
from medseg.voc.dataset import LABELS

Convention = Literal["rgb", "bgr"]

CONVENTIONS: dict[Convention, InputConvention] = {"rgb": TORCHVISION, "bgr": CAFFE}

_METADATA = "medseg_voc"
_OWN = "medseg"


@dataclass(frozen=True)
class Origin:
    """What a file of weights says of itself.

    Attributes:
        layout: "medseg", or the name of a public layout.
        convention: The input that the weights were trained with; None where the file does not tell.
        findings: What was adapted, or is doubtful.
    """

    layout: str
    convention: InputConvention | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Written:
    """What `save_weights` puts beside the tensors."""

    architecture: str
    settings: dict[str, Any]
    convention: InputConvention


def preparation_of(convention: InputConvention) -> Preparation:
    """What is done to a photo before the network sees it."""
    return Preparation(orientation="RAS", intensity=ScaleIntensityRange(low=0, high=255), convention=convention)


def voc_model(
    architecture: str, weights: Path, convention: Convention | None = None, settings: dict[str, Any] | None = None
) -> tuple[Model, tuple[Finding, ...]]:
    """Build a network for VOC's classes and load its weights.

    Args:
        architecture: A name in `medseg.networks.ARCHITECTURES`.
        weights: What `medseg voc train` wrote, a public checkpoint in a layout that `load_checkpoint` knows, a state of
            the network itself, or the folder of a model that medseg trained.
        convention: The input that the weights were trained with, instead of what the file says; where nobody says it,
            RGB as torchvision normalises it.
        settings: The architecture's own, instead of those that the file says.

    Returns:
        The model, and what is doubtful about it.

    Raises:
        InputError: If the file is missing or damaged, or holds more than weights.
        ModelError: If there is no such architecture, or the weights do not fit it.
    """
    if weights.is_dir():
        return load_model(weights), ()
    written = _written(weights)
    if written is not None and written.architecture != architecture:
        raise ModelError(f"{weights}: holds weights of {written.architecture}, not of {architecture}.")
    settings = {**_settings(architecture, weights, written), **(settings or {})}
    info = _info(architecture, settings, CONVENTIONS["rgb"])
    network = build_network(info)
    origin = load_weights(network, weights)
    findings = origin.findings
    chosen = CONVENTIONS[convention] if convention else origin.convention
    if chosen is None:
        chosen = CONVENTIONS["rgb"]
        text = "The file does not tell what its weights were trained on; RGB as torchvision's is taken (--input)."
        findings = (*findings, Finding("convention-uncertain", text))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    info = info.model_copy(update={"preparation": preparation_of(chosen), "sha256": sha256})
    return Model(info, network.eval(), info.windows), findings


def load_weights(network: nn.Module, weights: Path, *, partly: bool = False) -> Origin:
    """Load weights from a file into a network, whoever wrote them.

    Args:
        network: Changed in place.
        weights: See `voc_model`.
        partly: Whether to leave alone what a file of medseg's own does not have, or has in another shape.

    Raises:
        InputError: If the file is missing or damaged, or holds more than weights.
        ModelError: If it does not fit.
    """
    state, own, written = read_state(weights), network.state_dict(), _written(weights)
    if written is None and set(state) != set(own):
        report = load_checkpoint(network, weights)
        return Origin(report.layout, report.convention, report.findings)
    if partly:
        state = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
        if not state:
            raise ModelError(f"{weights}: no layer of it is in the network.")
    try:
        network.load_state_dict(state, strict=not partly)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{weights}: does not fit {network.__class__.__name__}: {reason}") from None
    return Origin(_OWN, written.convention if written else None)


def save_weights(network: nn.Module, written: Written, path: Path) -> None:
    """Write weights as safetensors, with what it takes to use them."""
    about = {
        "architecture": written.architecture,
        "settings": written.settings,
        "convention": written.convention.model_dump(),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as part:
        save_file(state, part, metadata={_METADATA: json.dumps(about)})


def _settings(architecture: str, weights: Path, written: Written | None) -> dict[str, Any]:
    """The architecture's settings that a file is known to need."""
    if written is not None:
        return written.settings
    layout = layout_of(read_state(weights))
    return dict(layout.build[1]) if layout is not None and layout.build[0] == architecture else {}


def _written(path: Path) -> Written | None:
    """What `save_weights` said; None for another's file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(_METADATA)
        if metadata is None:
            return None
        about = json.loads(metadata)
        return Written(about["architecture"], about["settings"], InputConvention(**about["convention"]))
    except SafetensorError:
        return None  # `read_state` says so
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"{path}: its description cannot be read ({error.__class__.__name__}).") from None


def _info(architecture: str, settings: dict[str, Any], convention: InputConvention) -> ModelInfo:
    about = {"description": "VOC 2012", "intended_use": "Evaluation", "limits": "Photographs", "data_source": "unknown"}
    name = f"voc-{architecture}".replace("_", "-")
    return ModelInfo(
        card=ModelCard(name=name, title=architecture, licence="unknown", **about),
        labels=LABELS,
        accepts=Accepts(dimensions=2),
        preparation=preparation_of(convention),
        network=NetworkSettings(architecture=architecture, spatial_dims=2, in_channels=3, settings=settings),
        windows=Windows(size=(513, 513, 1)),
        sha256="",
    )
