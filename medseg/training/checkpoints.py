"""Checkpoints that appear whole or not at all, and averaged weights that survive a resumption."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from medseg.atomic import atomic_path
from medseg.errors import InputError

_NETWORK = "network."


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; Lightning's own goes by way of another folder, maybe another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one checkpoint."""
        with atomic_path(Path(path)) as part:
            torch.save(checkpoint, part)


def callbacks(folder: Path, *, ema_decay: float) -> list[Callback]:
    """Keep `last.ckpt` after every epoch and `best.ckpt` by mean validation Dice; average weights with `ema_decay`."""
    settings = {"enable_version_counter": False, "auto_insert_metric_name": False}
    last = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, **settings)
    best = ModelCheckpoint(folder, "best", "dice", mode="max", save_on_train_epoch_end=False, **settings)
    return [EMAWeightAveraging(decay=ema_decay), best, last] if ema_decay else [best, last]


def epochs_done(checkpoint: Path) -> int:
    """Epochs that a run has behind it; 0 without a checkpoint.

    Raises:
        InputError: If the file is not a checkpoint.
    """
    return int(_load(checkpoint)["epoch"]) + 1 if checkpoint.exists() else 0


def network_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The network's weights in a checkpoint: the averaged ones where weights were averaged.

    Raises:
        InputError: If the file is not a checkpoint.
    """
    state = _load(checkpoint)["state_dict"]
    return {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        _ = content["state_dict"]
    except (OSError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
        raise InputError(
            f"{checkpoint}: not a readable checkpoint ({error.__class__.__name__}); train again."
        ) from None
    return content
