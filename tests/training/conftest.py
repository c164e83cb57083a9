from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from medseg.geometry import Geometry
from tests.phantoms import affine_of, ball

SHAPE = (16, 14, 12)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine_of((1, 1, 1)) if affine is None else affine), path)


def phantom(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright and a brighter ball in noise, (image, labels 1 and 2), different for every number."""
    random = np.random.default_rng(number)
    geometry = Geometry(SHAPE, affine_of((1, 1, 1)))
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[ball(geometry, (4, *random.uniform(4, 8, 2)), 3)] = 1
    labels[ball(geometry, (11, *random.uniform(4, 8, 2)), 3)] = 2
    return (labels * 2 + 0.3 * random.standard_normal(SHAPE)).astype(np.float32), labels


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """Six cases in the layout of the Medical Segmentation Decathlon."""
    root = tmp_path / "Task99_Balls"
    for number in range(6):
        image, labels = phantom(number)
        write_nifti(root / f"imagesTr/case_{number}.nii.gz", image)
        write_nifti(root / f"labelsTr/case_{number}.nii.gz", labels)
    entries = [
        {"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in (3, 0, 5, 1, 4, 2)
    ]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def settings(root: str | Path) -> dict[str, Any]:
    """A whole training run in seconds."""
    return {
        "card": {
            "name": "balls",
            "title": "Balls",
            "description": "Two balls.",
            "intended_use": "Tests.",
            "limits": "Balls alone.",
            "data_source": "Drawn by the tests.",
            "licence": "CC0-1.0",
        },
        "data": {"root": str(root), "folds": 3},
        "labels": {"labels": [{"index": 1, "name": "left"}, {"index": 2, "name": "right"}]},
        "network": {"architecture": "unet", "settings": {"channels": [4, 8], "dropout": 0.2}},
        "windows": {"size": [16, 16, 16], "mirror_axes": [1]},
        "training": {
            "epochs": 4,
            "patch": [16, 16, 16],
            "warmup_steps": 2,
            "learning_rate": 0.01,
            "ema_decay": 0.5,
            "validate_every": 2,
            "precision": "float32",
            "augmentation": {"flip_axes": [1], "intensity_probability": 0.5},
        },
    }


@pytest.fixture
def config_file(decathlon: Path, tmp_path: Path) -> Path:
    path = tmp_path / "balls.yaml"
    path.write_text(yaml.safe_dump(settings(decathlon.name)))
    return path
