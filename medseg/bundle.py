"""The part of a model on disk that says what it is: read and checked without loading weights or torch.

A model is a folder in MONAI bundle layout:

    configs/metadata.json     what MONAI's schema asks for, and under "medseg" everything that this package reads
    configs/inference.json    the same model for MONAI's own tools; medseg never reads it
    models/model.safetensors  the weights
    docs/README.md            the model card
    LICENSE
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from medseg.config import Accepts, ModelCard, NetworkSettings, Preparation, Windows, validate
from medseg.errors import ConfigError, ModelError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.likeness import Seen
from medseg.settings import Settings
from medseg.volume import Volume

METADATA = Path("configs") / "metadata.json"
INFERENCE = Path("configs") / "inference.json"
WEIGHTS = Path("models") / "model.safetensors"
CARD = Path("docs") / "README.md"
LICENCE = Path("LICENSE")

SHIPPED = Path(str(resources.files("medseg"))) / "models"


class ModelInfo(Settings):
    """What a bundle says of itself.

    Attributes:
        sha256: Of the weights file, in hexadecimal.
        seen: What the scans trained on were like; None of models that do not say.
        metrics: Figures on cases that took no part in training, such as {"dice": {"anterior hippocampus": 0.88}}.
    """

    format_version: int = 1
    card: ModelCard
    labels: LabelSet
    accepts: Accepts
    preparation: Preparation
    network: NetworkSettings
    windows: Windows
    sha256: str
    seen: Seen | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What `--model` calls it."""
        return self.card.name

    def objection(self, geometry: Geometry, modality: str | None) -> str | None:
        """Why a scan is unlike those the model was made for, or None if it fits."""
        accepts = self.accepts
        if modality is not None and accepts.modalities and modality not in accepts.modalities:
            return f"takes {' or '.join(accepts.modalities)}, not {modality}"
        if accepts.dimensions == 3 and min(geometry.shape) == 1:
            return "takes volumes, not single images"
        if accepts.dimensions == 2 and min(geometry.shape) > 1 and self.windows.thin_axis is None:
            return "takes single images, not volumes"
        low, high = accepts.field_of_view_mm
        extents = [e for e, n in zip(geometry.extent_mm, geometry.shape, strict=True) if n > 1]
        if extents and (min(extents) < low or max(extents) > high):
            seen = " × ".join(f"{extent:.0f}" for extent in extents)
            return f"takes a field of view of {low:g} to {high:g} mm an axis, not {seen} mm"
        return None

    def doubts(self, volume: Volume) -> tuple[str, ...]:
        """Why a scan is unlike those that the model was made for and trained on, a phrase each."""
        objection = self.objection(volume.geometry, volume.modality)
        unusual = self.seen.doubts(volume) if self.seen is not None else ()
        return (() if objection is None else (objection,)) + tuple(f"was given a scan that {one}" for one in unusual)


def read_info(folder: Path) -> ModelInfo:
    """Read and check what a bundle says of itself.

    Raises:
        ModelError: If the folder is not a medseg bundle, or its metadata is damaged.
    """
    path = Path(folder) / METADATA
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"{folder}: no model here: {METADATA} cannot be read; give a model's name or folder."
        ) from None
    except ValueError:
        raise ModelError(f"{path}: not JSON; the model is damaged, install or copy it again.") from None
    if not isinstance(content, dict) or "medseg" not in content:
        raise ModelError(f'{path}: has no "medseg" section: a MONAI bundle, but not one that medseg made.')
    try:
        return validate(content["medseg"], ModelInfo, where=str(path))
    except ConfigError as error:
        raise ModelError(str(error)) from None


def shipped_models() -> dict[str, Path]:
    """The models that come with the package: {name: folder}."""
    return {path.parents[1].name: path.parents[1] for path in sorted(SHIPPED.glob(f"*/{METADATA.as_posix()}"))}


def find_model(name_or_folder: str | Path) -> Path:
    """The folder of a shipped model, or the folder itself.

    Raises:
        ModelError: If there is no such model; the message lists those that there are.
    """
    shipped = shipped_models()
    if str(name_or_folder) in shipped:
        return shipped[str(name_or_folder)]
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    names = ", ".join(shipped) or "none"
    raise ModelError(f"{name_or_folder}: neither a shipped model ({names}) nor a folder that holds one.")


def write_info(folder: Path, info: ModelInfo, versions: dict[str, str]) -> None:
    """Write `configs/metadata.json`, with the entries that MONAI's bundle schema asks for."""
    card, labels = info.card, info.labels
    dims = info.network.spatial_dims
    size = [n for axis, n in enumerate(info.windows.size) if axis != info.windows.thin_axis]
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "/".join(info.accepts.modalities) or "n/a",
        "num_channels": info.network.in_channels * (2 * info.windows.context + 1),
        "spatial_shape": size[:dims],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(c): "image" for c in range(info.network.in_channels)},
    }
    channels = {"0": "background"} | {str(n): label.name for n, label in enumerate(labels, start=1)}
    prediction = image | {"type": "logits", "format": "segmentation", "num_channels": labels.num_classes}
    metadata = {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": card.version,
        "changelog": {card.version: "trained by medseg"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {"medseg": versions["medseg"], "safetensors": versions["safetensors"]},
        "name": card.title,
        "task": f"Segmentation of {', '.join(labels.names.values())}",
        "description": card.description,
        "authors": card.authors,
        "copyright": card.licence,
        "data_source": card.data_source,
        "intended_use": card.intended_use,
        "eval_metrics": info.metrics,
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": prediction | {"channel_def": channels}},
        },
        "medseg": info.model_dump(mode="json"),
    }
    (folder / METADATA).parent.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
