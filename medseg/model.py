"""A model: network, labels, preparation and windows, and how they lie on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from medseg.bundle import CARD, INFERENCE, LICENCE, WEIGHTS, ModelInfo, find_model, read_info, write_info
from medseg.config import Preparation, TrainConfig, Windows
from medseg.errors import ConfigError, ModelError
from medseg.inference import around_body
from medseg.labels import LabelSet
from medseg.likeness import Seen
from medseg.networks import build
from medseg.prepare import prepare, steps
from medseg.volume import Volume


@dataclass(frozen=True, eq=False)
class Model:
    """A network with all that is needed to use it.

    Attributes:
        info: What the model says of itself: card, labels, what it accepts, preparation, windows, SHA-256.
        network: In evaluation mode, on the CPU.
        windows: How the network is swept over a volume; the model's own unless a caller overrides them.
    """

    info: ModelInfo
    network: nn.Module
    windows: Windows

    @property
    def labels(self) -> LabelSet:
        """The structures that the model segments; channel n of the network is the nth of them, 0 is background."""
        return self.info.labels

    @property
    def preparation(self) -> Preparation:
        """What is done to a scan before the network sees it."""
        return self.info.preparation

    def prepared(self, volume: Volume) -> Volume:
        """A scan as the network's windows are cut from it; the box around the body alone where that is all they see.

        Raises:
            InputError: If the scan has nothing to segment.
        """
        prepared = prepare(volume, self.preparation)
        return around_body(prepared) if self.windows.body_only else prepared


def load_model(name_or_folder: str | Path) -> Model:
    """Load a shipped model by its name, or any model from its folder.

    Nothing is downloaded, unpickled, or run from a configuration.

    Raises:
        ModelError: If there is no such model, or its files are damaged or do not belong together.
    """
    folder = find_model(name_or_folder)
    info = read_info(folder)
    network = build_network(info)
    weights = folder / WEIGHTS
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError:
        raise ModelError(f"{weights}: the weights are missing; install or copy the model again.") from None
    if found != info.sha256:
        raise ModelError(f"{weights}: SHA-256 is {found[:12]}…, expected {info.sha256[:12]}…; copy the model again.")
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{weights}: does not fit its metadata: {' '.join(str(error).split())[:300]}") from None
    return Model(info, network.eval(), info.windows)


def build_network(info: ModelInfo | TrainConfig) -> nn.Module:
    """The network of a model or a training run, with fresh weights.

    Raises:
        ModelError: If the settings ask for a network that cannot be built.
    """
    settings = info.network
    try:
        return build(
            settings.architecture,
            spatial_dims=settings.spatial_dims,
            in_channels=settings.in_channels * (2 * info.windows.context + 1),
            num_classes=info.labels.num_classes,
            **settings.settings,
        )
    except ConfigError as error:
        raise ModelError(f"{info.card.name}: {error}") from None


def save_model(
    folder: Path,
    network: nn.Module,
    config: TrainConfig,
    *,
    card: str,
    licence: str,
    metrics: dict[str, Any],
    seen: Seen | None = None,
) -> ModelInfo:
    """Write a model as a MONAI bundle; the folder appears whole or not at all.

    Args:
        folder: Replaced if it is a model already.
        network: Trained weights.
        config: The training run's settings.
        card: The model card, Markdown.
        licence: Text of the licence of the weights.
        metrics: Figures on cases that took no part in training.
        seen: What the scans trained on were like.

    Raises:
        ModelError: If `folder` exists and is not a model.
    """
    folder = Path(folder)
    if folder.exists():
        read_info(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for path in (WEIGHTS, CARD):
        (part / path).parent.mkdir(parents=True)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if config.half_weights:  # loading brings them back to 32 bits
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(state, part / WEIGHTS)
    info = ModelInfo(
        card=config.card,
        labels=config.labels,
        accepts=config.accepts,
        preparation=config.preparation,
        network=config.network.model_copy(update={"checkpoint": None}),  # a place on one machine
        windows=config.windows,
        sha256=hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest(),
        metrics=metrics,
        seen=seen,
    )
    packages = ("medseg", "monai", "torch", "numpy", "safetensors")
    write_info(part, info, {package: version(package) for package in packages})
    (part / INFERENCE).write_text(json.dumps(monai_config(info), indent=2) + "\n", encoding="utf-8")
    (part / CARD).write_text(card, encoding="utf-8")
    (part / LICENCE).write_text(licence, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return info


def monai_config(info: ModelInfo) -> dict[str, Any]:
    """The model as a configuration for `python -m monai.bundle run --config_file configs/inference.json`.

    It prepares, sweeps and inverts as MONAI does it; mirrored passes are left out, since MONAI's inferers have none.
    """
    network, windows = info.network, info.windows
    loading = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
    ]
    inferer: dict[str, Any] = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(windows.size),
        "sw_batch_size": 1,
        "overlap": windows.overlap,
        "mode": windows.weights,
        "cval": windows.padding_value,
    }
    if windows.thin_axis is not None:
        size = [n for axis, n in enumerate(windows.size) if axis != windows.thin_axis]
        inferer |= {"_target_": "SliceInferer", "roi_size": size, "spatial_dim": windows.thin_axis}
    return {
        "imports": ["$import glob", "$import torch", "$from safetensors.torch import load_file"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "medseg.networks.build",
            "name": network.architecture,
            "spatial_dims": network.spatial_dims,
            "in_channels": network.in_channels * (2 * windows.context + 1),
            "num_classes": info.labels.num_classes,
            **network.settings,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [*loading, *monai_transforms(info.preparation, info.network.in_channels)],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": inferer,
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "seg"},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": [f"$@network.load_state_dict(load_file(@bundle_root + '/{WEIGHTS.as_posix()}'))"],
        "run": ["$@evaluator.run()"],
    }


def monai_transforms(preparation: Preparation, channels: int = 1) -> list[dict[str, Any]]:
    """A preparation as entries of a MONAI configuration, for the key "image" of so many channels."""
    entries = []
    for step in steps(preparation, channels):
        arguments = dict(step.arguments)
        if step.name == "CropForeground":
            arguments = {"source_key": "image", "select_fn": f"$lambda image: image > {preparation.foreground_above}"}
        if step.name == "Lambda":
            arguments = {"func": "$lambda image: image.flip(0)"}
        if step.name == "Spacing":
            arguments["dtype"] = "$torch.float32"
        entries.append({"_target_": f"{step.name}d", "keys": "image", **arguments})
    return entries
