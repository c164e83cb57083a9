"""A network of any architecture with weights from a file, as a model of VOC's 21 classes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medseg.bundle import ModelInfo
from medseg.config import Accepts, ModelCard, NetworkSettings, Windows
from medseg.errors import ModelError
from medseg.model import Model, build_network, load_model
from medseg.voc.dataset import LABELS
from medseg.voc.evaluator import PREPARATION

Convention = Literal["rgb", "bgr"]

# Mean and standard deviation of ImageNet: of RGB in 0..1 (torchvision), and of BGR in 0..255 (Caffe, mean alone).
_RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BGR = ((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0))


class Normalised(nn.Module):
    """A network that takes photos in 0..1 RGB, whatever its weights were trained on."""

    mean: Tensor
    sd: Tensor

    def __init__(self, network: nn.Module, convention: Convention) -> None:
        super().__init__()
        self.network = network
        self._factor, self._reverse = (1.0, False) if convention == "rgb" else (255.0, True)
        mean, sd = _RGB if convention == "rgb" else _BGR
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(sd).view(1, 3, 1, 1), persistent=False)

    def prepared(self, x: Tensor) -> Tensor:
        """Photos (B, 3, rows, columns) as the network knows them."""
        return ((x.flip(1) if self._reverse else x) * self._factor - self.mean) / self.sd

    def forward(self, x: Tensor) -> Tensor:
        """Photos (B, 3, rows, columns) to logits of the same size."""
        logits: Tensor = self.network(self.prepared(x))
        return logits


def voc_model(architecture: str, weights: Path, convention: Convention, settings: dict[str, Any]) -> Model:
    """Build a network for VOC's classes and load its weights.

    Args:
        architecture: A name in `medseg.networks.ARCHITECTURES`.
        weights: A state in safetensors or PyTorch's format, or the folder of a model that medseg trained.
        convention: What the weights were trained on: RGB as torchvision normalises it, or BGR as Caffe does.
        settings: The architecture's own.

    Raises:
        ModelError: If there is no such architecture, or the weights do not fit it.
    """
    if weights.is_dir():
        return load_model(weights)
    about = {"description": "VOC 2012", "intended_use": "Evaluation", "limits": "Photographs", "data_source": "unknown"}
    name = f"voc-{architecture}".replace("_", "-")
    info = ModelInfo(
        card=ModelCard(name=name, title=architecture, licence="unknown", **about),
        labels=LABELS,
        accepts=Accepts(dimensions=2),
        preparation=PREPARATION,
        network=NetworkSettings(architecture=architecture, spatial_dims=2, in_channels=3, settings=settings),
        windows=Windows(size=(513, 513, 1)),
        sha256="",
    )
    network = build_network(info)
    load_state(network, weights)
    info = info.model_copy(update={"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    return Model(info, Normalised(network, convention).eval(), info.windows)


def load_state(network: nn.Module, weights: Path, *, partly: bool = False) -> None:
    """Load weights from a file into a network.

    Args:
        network: Changed in place.
        weights: A state in safetensors or PyTorch's format, which is read without running code from it.
        partly: Whether to leave alone what the file does not have, or has in another shape.

    Raises:
        ModelError: If the file cannot be read or does not fit.
    """
    try:
        state = _state(weights)
        if partly:
            own = network.state_dict()
            state = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
            if not state:
                raise ValueError("no layer of it is in the network")
        network.load_state_dict(state, strict=not partly)
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read ({error.__class__.__name__}); give a file of weights.") from None
    except (RuntimeError, SafetensorError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{weights}: does not fit {network.__class__.__name__}: {reason}") from None


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise ValueError(f"not a file of weights alone ({error.__class__.__name__})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError("holds no state dictionary")
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
