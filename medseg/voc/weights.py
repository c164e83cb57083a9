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

    def forward(self, x: Tensor) -> Tensor:
        """Photos (B, 3, rows, columns) to logits of the same size."""
        photo = (x.flip(1) if self._reverse else x) * self._factor
        logits: Tensor = self.network((photo - self.mean) / self.sd)
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
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        network.load_state_dict(_state(weights))
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read ({error.__class__.__name__}); give a file of weights.") from None
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise ModelError(f"{weights}: does not fit {architecture}: {' '.join(str(error).split())[:300]}") from None
    info = info.model_copy(update={"sha256": digest})
    return Model(info, Normalised(network, convention).eval(), info.windows)


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
