"""A model and scans that are as small as they can be, with a right answer that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.bundle import ModelInfo
from medseg.config import TrainConfig, validate
from medseg.model import build_network, save_model

LABELS = {1: "dim", 4: "bright"}


def save_tiny_model(folder: Path, **changes: Any) -> ModelInfo:
    """A U-Net of random weights; `changes` replace sections of its configuration."""
    content = {
        "card": {
            "name": folder.name,
            "title": "Tiny",
            "description": "A test.",
            "intended_use": "Tests.",
            "limits": "Knows nothing.",
            "data_source": "None.",
            "licence": "Apache-2.0",
        },
        "data": {"root": "."},
        "labels": {"labels": [{"index": index, "name": name} for index, name in LABELS.items()]},
        "accepts": {"modalities": ["MR"], "field_of_view_mm": [5, 100]},
        "preparation": {"intensity": {"kind": "window", "low": 0, "high": 300}},
        "network": {"architecture": "unet", "settings": {"channels": [2, 4]}},
        "windows": {"size": [8, 8, 8], "mirror_axes": [0]},
        "training": {"epochs": 1, "patch": [8, 8, 8]},
    }
    config = validate(content | changes, TrainConfig, where="test")
    torch.manual_seed(0)
    return save_model(folder, build_network(config), config, card="# Tiny", licence="Apache-2.0", metrics={})


class Threshold(nn.Module):
    """Background below 100, label "dim" from 100 to 200, "bright" above (0..300 is prepared to 0..1)."""

    def forward(self, x: Tensor) -> Tensor:
        value = 300 * x[:, :1]
        return torch.cat([100 - value, 50 - (value - 150).abs(), value - 200], dim=1)


def phantom() -> NDArray[np.int16]:
    """20 × 16 × 12 voxels: a dim cube of 6³ = 216 inside, and a bright box of 4·4·3 = 48 in the corner."""
    array = np.full((20, 16, 12), 10, dtype=np.int16)
    array[4:10, 4:10, 3:9] = 150
    array[16:, 12:, 9:] = 280
    return array


def save_scan(path: Path, array: NDArray[Any] | None = None, spacing_mm: tuple[float, ...] = (1.0, 1.0, 2.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(phantom() if array is None else array, np.diag([*spacing_mm, 1.0])), path)
    return path


def labels_in(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.load(path).dataobj)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
