"""Training on VOC by a paper's schedule, with Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medseg.convention import InputConvention
from medseg.errors import ConfigError
from medseg.networks import build
from medseg.study import Finding
from medseg.training.rates import parameter_groups
from medseg.voc.dataset import IGNORE, LABELS, Photo, find_photos, read_labels
from medseg.voc.samples import From, Samples
from medseg.voc.schedule import VocSchedule
from medseg.voc.weights import CONVENTIONS, Written, load_weights, save_weights

WEIGHTS = "weights.safetensors"
CHECKPOINT = "last.ckpt"

_SAVED_EVERY = 500  # iterations


def train_voc(
    schedule: VocSchedule,
    root: Path,
    output: Path,
    *,
    initial: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: bool = True,
    saved_every: int = _SAVED_EVERY,
) -> tuple[Path, tuple[Finding, ...]]:
    """Train a network, and write its weights for `medseg voc evaluate --weights`.

    A run is a pure function of its schedule, photos and initial weights: stopped at any moment and resumed, it ends in
    the same weights as one that was not.

    Args:
        schedule: A file in configs/voc.
        root: VOCdevkit/VOC2012.
        output: Folder of the weights, and of the checkpoint until then.
        initial: Weights to start from, ours or public. Layers that a file of ours does not have, or has in another
            shape, start fresh; a public file brings its own input convention, which wins over the schedule's.
        resume: Continue from the last checkpoint in `output`.
        device: As torch calls it.
        progress: Whether to show a bar.
        saved_every: Iterations from one checkpoint to the next.

    Returns:
        The file of the weights, and what is doubtful about the initial ones.

    Raises:
        ConfigError: If the schedule does not fit the architecture, photos of different sizes are to be one batch, or
            `output` holds another run, or one that was not asked to be resumed.
        InputError: If photos or the initial weights are missing or damaged.
        ModelError: If the initial weights do not fit.
    """
    if schedule.crop == 0 and schedule.batch_size > 1:
        raise ConfigError(f"crop 0 takes whole photos, which are of many sizes; batch_size is {schedule.batch_size}.")
    photos = find_photos(root, schedule.split)
    last = output / CHECKPOINT
    begun, convention = _begun(last, schedule, resume=resume)
    torch.manual_seed(schedule.seed)
    network = build(
        schedule.architecture, spatial_dims=2, in_channels=3, num_classes=LABELS.num_classes, **schedule.settings
    )
    findings: tuple[Finding, ...] = ()
    if initial is not None and not begun:
        origin = load_weights(network, initial, partly=True)
        convention, findings = origin.convention or convention, origin.findings
    kind, _, number = device.partition(":")
    trainer = pl.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(number or 0)] if kind == "cuda" else 1,
        max_steps=schedule.iterations,
        accumulate_grad_batches=schedule.accumulate,
        logger=False,
        callbacks=[ModelCheckpoint(output, CHECKPOINT.removesuffix(".ckpt"), every_n_train_steps=saved_every)],
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
    weights = class_weights(photos) if schedule.balance else None
    module = VocTraining(network, schedule, weights, convention)
    samples = Samples(photos, schedule, convention)
    first = begun * schedule.accumulate * schedule.batch_size
    loader = DataLoader(samples, schedule.batch_size, sampler=From(first, len(samples)))
    trainer.fit(module, loader, ckpt_path=last if begun else None, weights_only=False)
    save_weights(network, Written(schedule.architecture, schedule.settings, convention), output / WEIGHTS)
    last.unlink(missing_ok=True)
    return output / WEIGHTS, findings


def _begun(last: Path, schedule: VocSchedule, *, resume: bool) -> tuple[int, InputConvention]:
    """Iterations that a run in the folder has behind it, and the input of the weights that it began with."""
    if not last.exists():
        return 0, CONVENTIONS[schedule.input]
    if not resume:
        raise ConfigError(f"{last.parent} holds a run that was stopped; continue it with --resume, or give another -o.")
    content = torch.load(last, map_location="cpu", weights_only=True)
    if content["schedule"] != schedule.model_dump(mode="json"):
        raise ConfigError(f"{last.parent} holds a run of another schedule; give its own, or another -o.")
    return int(content["global_step"]), InputConvention(**content["convention"])


class VocTraining(pl.LightningModule):
    """Cross-entropy over the judged pixels, and stochastic gradient descent as the schedule says."""

    def __init__(
        self, network: nn.Module, schedule: VocSchedule, weights: Tensor | None, convention: InputConvention
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.convention = network, schedule, convention
        self.loss = nn.CrossEntropyLoss(weights, ignore_index=IGNORE, reduction=schedule.loss)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch; auxiliary outputs take part with their papers' weights."""
        # Chance inside the network (dropout) depends on the step alone, so that a resumed run meets the same.
        torch.manual_seed(hash((self.schedule.seed, self.global_step, batch_idx % self.schedule.accumulate)))
        photos, labels = batch
        network: Any = self.network
        outputs = network.training_outputs(photos) if hasattr(network, "training_outputs") else [(network(photos), 1.0)]
        return torch.stack([weight * self._loss_of(logits, labels) for logits, weight in outputs]).sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the run was asked to do, for a resumed one to be the same."""
        checkpoint["schedule"] = self.schedule.model_dump(mode="json")
        checkpoint["convention"] = self.convention.model_dump(mode="json")

    def configure_optimizers(self) -> Any:
        """SGD with the head's and the biases' own rates, and the schedule's decay at every step."""
        schedule = self.schedule
        groups = parameter_groups(
            self.network,
            schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            head_factor=schedule.head_factor,
            bias_factor=schedule.bias_factor,
            decay_biases=schedule.decay_biases,
            is_head=schedule.is_head,
        )
        optimizer = torch.optim.SGD(groups, momentum=schedule.momentum)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def _loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[2:] != labels.shape[1:]:
            logits = nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        loss: Tensor = self.loss(logits.float(), labels)
        return loss


def class_weights(photos: Sequence[Photo]) -> Tensor:
    """Median-frequency balancing (21,): a class's frequency counts in the photos that have it."""
    voxels, judged = np.zeros(LABELS.num_classes), np.zeros(LABELS.num_classes)
    for counts in _counts(photos):
        voxels += counts
        judged += np.where(counts > 0, counts.sum(), 0)
    frequencies = np.divide(voxels, judged, out=np.full(len(voxels), np.nan), where=judged > 0)
    weights = np.nanmedian(frequencies) / frequencies
    return torch.from_numpy(np.nan_to_num(weights, nan=0.0)).float()


def _counts(photos: Sequence[Photo]) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    for photo in photos:
        labels = read_labels(photo).array
        yield np.bincount(labels[labels != IGNORE], minlength=LABELS.num_classes)
