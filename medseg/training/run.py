"""A complete training run: from one configuration file to a model on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

from medseg.atomic import write_text
from medseg.bundle import CARD
from medseg.config import TrainConfig, load_config, validate
from medseg.devices import choose_device
from medseg.errors import ConfigError
from medseg.model import build_network, load_model, save_model
from medseg.pipeline import segment
from medseg.training import checkpoints, hardware
from medseg.training.card import Facts, licence_notice, render
from medseg.training.card import metrics as card_metrics
from medseg.training.cases import Case, find_cases, read_image, read_reference, split
from medseg.training.dataset import EpochSampler, PatchDataset, PreparedCase, load_cases
from medseg.training.fitting import Fitted, fit
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
    root: Path | None = None,
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
        root: Data set, instead of the configuration's.
        progress: Whether to show the course on stderr.

    Returns:
        The model's folder.

    Raises:
        ConfigError: If a setting is wrong, or `output` already holds a run and `resume` was not asked for.
        InputError: If cases are missing or unreadable, or hold labels outside the label set.
        GeometryError: If the image and label grids of a case differ.
    """
    output = Path(output)
    config, root = _resolve(Path(config_path), epochs=epochs, architecture=architecture, root=root)
    device = choose_device(device)
    torch.manual_seed(config.training.seed)
    weights = Path(config_path).parent / config.network.checkpoint if config.network.checkpoint else None
    config, network = starting_point(config, weights, show=progress)
    _begin(config, root, weights, output, resume=resume)
    train_cases, validation_cases = split(find_cases(root, config.data.columns), config.data)
    with counter("reading cases", show=progress) as count:
        prepared = load_cases([*train_cases, *validation_cases], config, count)
    trained, validated = prepared[: len(train_cases)], prepared[len(train_cases) :]
    last = output / "checkpoints" / "last.ckpt"
    module = SegmentationModule(config, network)
    is_fitted = isinstance(network, Fitted)
    if is_fitted:
        computed_on, precision = torch.device("cpu"), "32-true"
        fit(module, _patches(trained, config), last, output / "log.csv")
    else:
        trainer = _optimise(module, trained, validated, last, output, device=device, progress=progress)
        computed_on, precision = trainer.strategy.root_device, str(trainer.precision)
    facts = Facts(
        train_cases=[case.name for case in train_cases],
        validation_cases=[case.name for case in validation_cases],
        seconds=training_seconds(output / "log.csv"),
        hardware=hardware.describe(computed_on),
        precision=precision,
        is_fitted=is_fitted,
    )
    return _ship(config, facts, checkpoints.network_weights(last), validation_cases, output, progress=progress)


def _optimise(
    module: SegmentationModule,
    trained: Sequence[PreparedCase],
    validated: Sequence[PreparedCase],
    last: Path,
    output: Path,
    *,
    device: str,
    progress: bool,
) -> pl.Trainer:
    """Train by gradient descent, from the last checkpoint if there is one."""
    config = module.config
    accelerator, devices = hardware.accelerator(device)
    with hardware.quiet(), hardware.deterministic():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=hardware.precision(config.training.precision, accelerator),
            callbacks=[
                EpochLog(output / "log.csv", show=progress),
                *checkpoints.callbacks(last.parent, ema_decay=config.training.ema_decay),
            ],
            **_trainer_settings(config, output),
        )
        trainer.fit(
            module,
            _patches(trained, config),
            DataLoader(validated, batch_size=None, collate_fn=_unchanged),  # type: ignore[arg-type]
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    return trainer


def _resolve(
    path: Path, *, epochs: int | None, architecture: str | None, root: Path | None
) -> tuple[TrainConfig, Path]:
    """The configuration with what the caller overrides, and the data set's folder."""
    config = load_config(path, TrainConfig)
    content = config.model_dump()
    if epochs is not None:
        content["training"]["epochs"] = epochs
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
        places = {"data": {"root"}, "network": {"checkpoint"}}
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


def _patches(cases: Sequence[PreparedCase], config: TrainConfig) -> DataLoader[dict[str, torch.Tensor]]:
    training = config.training
    dataset = PatchDataset(cases, config)
    return DataLoader(
        dataset,
        batch_size=training.batch_size,
        sampler=EpochSampler(len(dataset), training.seed),
        num_workers=training.workers,
        persistent_workers=training.workers > 0,
        drop_last=len(dataset) >= training.batch_size,
        pin_memory=torch.cuda.is_available(),
    )


def _unchanged(case: PreparedCase) -> PreparedCase:
    return case


def _ship(
    config: TrainConfig,
    facts: Facts,
    weights: dict[str, torch.Tensor],
    cases: Sequence[Case],
    output: Path,
    *,
    progress: bool,
) -> Path:
    """Validate the final weights as a user would meet them, from a saved model, and save it with its card."""
    network = build_network(config)
    network.load_state_dict(weights)
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        save_model(Path(scratch) / "model", network, config, card="", licence="", metrics={})
        model = load_model(Path(scratch) / "model")
    dice = {}
    with counter("validating", show=progress) as count:
        for case in cases:
            volume = read_image(case)
            reference = read_reference(case, config.labels, volume.geometry, config.data.values)
            dice[case.name] = dice_per_label(reference, segment(volume, model), config.labels)
            count(len(dice), len(cases))
    folder = output / "model"
    save_model(
        folder,
        network,
        config,
        card=render(config, facts, dice),
        licence=licence_notice(config),
        metrics=card_metrics(config, facts, dice),
    )
    # What made the weights stays beside them.
    for made_by, name in ((output / "config.yaml", "train.yaml"), (output / "log.csv", "log.csv")):
        shutil.copyfile(made_by, folder / CARD.parent / name)
    return folder
