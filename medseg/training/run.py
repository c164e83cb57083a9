"""A complete training run: from one configuration file to a model on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader, Dataset

from medseg.atomic import write_text
from medseg.bundle import CARD
from medseg.config import TrainConfig, load_config, validate
from medseg.devices import choose_device
from medseg.errors import ConfigError
from medseg.metrics import Reliability
from medseg.model import build_network, load_model, save_model
from medseg.pipeline import segment
from medseg.training import checkpoints, hardware
from medseg.training.behaviour import behaviour
from medseg.training.calibration import watched
from medseg.training.card import Facts, Results, licence_notice, render
from medseg.training.card import metrics as card_metrics
from medseg.training.cases import find_cases, split
from medseg.training.dataset import EpochSampler, PreparedCase
from medseg.training.fitting import Fitted, fit
from medseg.training.material import Material, gather
from medseg.training.module import SegmentationModule, dice_per_label
from medseg.training.progress import EpochLog, counter, training_seconds
from medseg.training.start import starting_point


def train(
    config_path: Path,
    *,
    output: Path,
    resume: bool = False,
    device: str | None = None,
    epochs: int | None = None,
    architecture: str | None = None,
    fold: int | None = None,
    root: Path | None = None,
    devices: int = 1,
    progress: bool = True,
) -> Path:
    """Train a model, validate it, and write it to disk with its card.

    The output folder holds `config.yaml` (every setting), `log.csv` (one row an epoch), `checkpoints/` and, at the
    end, `model/`. A run is a pure function of its configuration and data: stopped at any moment and resumed, it ends
    in the same weights on the same machine with the same number of threads.

    Args:
        config_path: A file in configs/train.
        output: Folder of the run.
        resume: Continue from the last complete epoch in `output`.
        device: "cpu", "gpu", "gpu:0", "mps"; the best there is by default.
        epochs: Instead of the configuration's.
        architecture: Instead of the configuration's, with its default settings.
        fold: Instead of the configuration's: the one that takes no part in training.
        root: Data set, instead of the configuration's.
        devices: How many devices of that kind train together, each in a process of its own that runs the same command
            and takes its share of every batch.
        progress: Whether to show the course on stderr.

    Returns:
        The model's folder.

    Raises:
        ConfigError: If a setting is wrong, or `output` already holds a run and `resume` was not asked for.
        InputError: If cases are missing or unreadable, or hold labels outside the label set.
        GeometryError: If the image and label grids of a case differ.
    """
    output = Path(output)
    config, root = _resolve(Path(config_path), epochs=epochs, architecture=architecture, fold=fold, root=root)
    device = choose_device(device)
    if config.training.batch_size % devices:
        raise ConfigError(
            f"training.batch_size is {config.training.batch_size}, which {devices} devices cannot share; "
            "choose a multiple."
        )
    torch.manual_seed(config.training.seed)
    weights = Path(config_path).parent / config.network.checkpoint if config.network.checkpoint else None
    config, network = starting_point(config, weights, show=progress)
    _begin(config, root, weights, output, resume=resume)
    train_cases, validation_cases = split(find_cases(root, config.data.columns), config.data)
    material = gather(train_cases, validation_cases, config, progress=progress)
    last = output / "checkpoints" / "last.ckpt"
    module = SegmentationModule(config, network)
    is_fitted = isinstance(network, Fitted)
    if is_fitted:
        computed_on, precision = torch.device("cpu"), "32-true"
        fit(module, _patches(material.patches, config), last, output / "log.csv")
    else:
        trainer = _optimise(module, material, last, output, device=device, devices=devices, progress=progress)
        if not trainer.is_global_zero:
            raise SystemExit(0)  # the trainer started this process as a helper; the first one goes on alone
        computed_on, precision = trainer.strategy.root_device, str(trainer.precision)
    facts = Facts(
        train_cases=[case.name for case in train_cases],
        validation_cases=[case.name for case in validation_cases],
        seconds=training_seconds(output / "log.csv"),
        hardware=hardware.describe(computed_on, devices),
        precision=precision,
        is_fitted=is_fitted,
    )
    folder = root if root.is_dir() else root.parent
    others = {what: folder / path for what, path in config.card.tried_on.items()}
    return _ship(material, facts, checkpoints.network_weights(last), output, others, progress=progress)


def _optimise(
    module: SegmentationModule,
    material: Material,
    last: Path,
    output: Path,
    *,
    device: str,
    devices: int,
    progress: bool,
) -> pl.Trainer:
    """Train by gradient descent, from the last checkpoint if there is one."""
    config = module.config
    accelerator, chosen = hardware.accelerator(device, devices)
    with hardware.quiet(), hardware.deterministic():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=chosen,
            strategy="ddp" if devices > 1 else "auto",
            precision=hardware.precision(config.training.precision, accelerator),
            callbacks=[
                EpochLog(output / "log.csv", show=progress),
                *checkpoints.callbacks(last.parent, ema_decay=config.training.ema_decay),
            ],
            **_trainer_settings(config, output),
        )
        trainer.fit(
            module,
            _patches(material.patches, config, checkpoints.epochs_done(last), devices),
            DataLoader(material.validated, batch_size=None, collate_fn=_unchanged),  # type: ignore[arg-type]
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    return trainer


def _resolve(
    path: Path, *, epochs: int | None, architecture: str | None, fold: int | None, root: Path | None
) -> tuple[TrainConfig, Path]:
    """The configuration with what the caller overrides, and the data set's folder."""
    config = load_config(path, TrainConfig)
    content = config.model_dump()
    if epochs is not None:
        content["training"]["epochs"] = epochs
    if fold is not None:
        content["data"]["fold"] = fold
    if architecture is not None and architecture != config.network.architecture:
        content["network"] |= {"architecture": architecture, "settings": {}, "checkpoint": None}
    # Folders in a configuration are relative to it.
    return validate(content, TrainConfig, where=str(path)), Path(root) if root else path.parent / config.data.root


def _begin(config: TrainConfig, root: Path, weights: Path | None, output: Path, *, resume: bool) -> None:
    """Write down the configuration, unless another run lies in the output folder."""
    written = output / "config.yaml"
    if written.exists() and any((output / "checkpoints").glob("*.ckpt")):
        if not resume:
            raise ConfigError(
                f"{output} already holds a training run; continue it with --resume or choose another output."
            )
        # What has no part in the weights may have changed: folders, and what the model says of itself.
        places: dict[str, Any] = {"card": True, "accepts": True, "data": {"root"}, "network": {"checkpoint"}}
        before, now = (c.model_dump(exclude=places) for c in (load_config(written, TrainConfig), config))
        if changed := [name for name in now if now[name] != before[name]]:
            raise ConfigError(
                f"{written}: the run in this folder has another {changed[0]!r} section; resume with the same settings "
                "or choose another output."
            )
    content = config.model_dump(mode="json")
    # A copy that can be run from where it lies, and bears no path of the machine above the two folders.
    content["data"]["root"] = Path(os.path.relpath(root, output)).as_posix()
    if weights is not None:
        content["network"]["checkpoint"] = Path(os.path.relpath(weights, output)).as_posix()
    write_text(written, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _trainer_settings(config: TrainConfig, output: Path) -> dict[str, Any]:
    training = config.training
    return {
        "max_epochs": training.epochs,
        "check_val_every_n_epoch": training.validate_every,
        "gradient_clip_val": training.gradient_clip,
        "deterministic": "warn",  # some CUDA kernels of 3D networks have no deterministic form
        "plugins": [checkpoints.AtomicCheckpointIO()],
        "default_root_dir": output,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def _patches(
    dataset: Dataset[dict[str, torch.Tensor]], config: TrainConfig, epoch: int = 0, devices: int = 1
) -> DataLoader[dict[str, torch.Tensor]]:
    training = config.training
    length = len(cast("Sized", dataset))
    return DataLoader(
        dataset,
        batch_size=training.batch_size // devices,
        sampler=EpochSampler(length, training.seed, epoch),
        num_workers=training.workers,
        persistent_workers=training.workers > 0,
        drop_last=length >= training.batch_size,
        pin_memory=torch.cuda.is_available(),
    )


def _unchanged(case: PreparedCase) -> PreparedCase:
    return case


def _ship(
    material: Material,
    facts: Facts,
    weights: dict[str, torch.Tensor],
    output: Path,
    others: Mapping[str, Path],
    *,
    progress: bool,
) -> Path:
    """Validate the final weights as a user would meet them, from a saved model, and save it with its card."""
    config = material.config
    network = build_network(config)
    network.load_state_dict(weights)
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        save_model(Path(scratch) / "model", network, config, card="", licence="", metrics={})
        model = load_model(Path(scratch) / "model")
    dice: dict[str, dict[int, float]] = {}
    reliability = Reliability()
    reactions: dict[str, str] = {}
    with counter("validating", show=progress) as count:
        for name, volume, reference in material.scans():
            found = segment(volume, model, refiners=[watched(reliability, reference)])
            dice[name] = dice_per_label(reference, found, config.labels)
            reactions = reactions or behaviour(model, volume, reference, others)
            count(len(dice), len(material.validated))
    results = Results(dice, reliability.expected_calibration_error, reactions)
    folder = output / "model"
    save_model(
        folder,
        network,
        config,
        card=render(config, facts, results),
        licence=licence_notice(config),
        metrics=card_metrics(config, facts, results),
        seen=material.seen,
    )
    # What made the weights stays beside them.
    for made_by, name in ((output / "config.yaml", "train.yaml"), (output / "log.csv", "log.csv")):
        shutil.copyfile(made_by, folder / CARD.parent / name)
    return folder
