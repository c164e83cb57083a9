"""Training on VOC by a paper's schedule, with Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medseg.atomic import atomic_path
from medseg.errors import ConfigError
from medseg.networks import build
from medseg.training.rates import parameter_groups
from medseg.voc.dataset import IGNORE, LABELS, Photo, find_photos, read_labels, read_photo
from medseg.voc.schedule import VocSchedule
from medseg.voc.weights import Normalised, load_state

WEIGHTS = "weights.safetensors"


def train_voc(
    schedule: VocSchedule,
    root: Path,
    output: Path,
    *,
    initial: Path | None = None,
    iterations: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train a network, and write its weights for `medseg voc evaluate --weights`.

    Args:
        schedule: A file in configs/voc.
        root: VOCdevkit/VOC2012.
        output: Folder of the weights.
        initial: Weights to start from; layers that the file does not have, or has in another shape, start fresh.
        iterations: Instead of the schedule's.
        device: As torch calls it.
        progress: Whether to show a bar.

    Returns:
        The file of the weights.

    Raises:
        ConfigError: If the schedule does not fit the architecture, or photos of different sizes are to be one batch.
        InputError: If photos are missing.
    """
    if iterations is not None:
        schedule = schedule.model_copy(update={"iterations": iterations})
    if schedule.crop == 0 and schedule.batch_size > 1:
        raise ConfigError(f"crop 0 takes whole photos, which are of many sizes; batch_size is {schedule.batch_size}.")
    photos = find_photos(root, schedule.split)
    torch.manual_seed(schedule.seed)
    network = build(
        schedule.architecture, spatial_dims=2, in_channels=3, num_classes=LABELS.num_classes, **schedule.settings
    )
    if initial is not None:
        load_state(network, initial, partly=True)
    kind, _, number = device.partition(":")
    trainer = pl.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(number or 0)] if kind == "cuda" else 1,
        max_steps=schedule.iterations,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
    weights = class_weights(photos) if schedule.balance else None
    loader = DataLoader(Samples(photos, schedule), batch_size=schedule.batch_size)
    trainer.fit(VocTraining(network, schedule, weights), loader)
    with atomic_path(output / WEIGHTS) as part:
        save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, part)
    return output / WEIGHTS


class VocTraining(pl.LightningModule):
    """Cross-entropy over the judged pixels, and stochastic gradient descent as the schedule says."""

    def __init__(self, network: nn.Module, schedule: VocSchedule, weights: Tensor | None) -> None:
        super().__init__()
        self.normalised = Normalised(network, schedule.input)
        self.schedule = schedule
        self.loss = nn.CrossEntropyLoss(weights, ignore_index=IGNORE, reduction=schedule.loss)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch; auxiliary outputs take part with their papers' weights."""
        photos, labels = batch
        network: Any = self.normalised.network
        seen = self.normalised.prepared(photos)
        outputs = network.training_outputs(seen) if hasattr(network, "training_outputs") else [(network(seen), 1.0)]
        return torch.stack([weight * self._loss_of(logits, labels) for logits, weight in outputs]).sum()

    def configure_optimizers(self) -> Any:
        """SGD with the head's and the biases' own rates, and the schedule's decay at every step."""
        schedule = self.schedule
        groups = parameter_groups(
            self.normalised.network,
            schedule.learning_rate,
            head_factor=schedule.head_factor,
            bias_factor=schedule.bias_factor,
        )
        optimizer = torch.optim.SGD(groups, momentum=schedule.momentum, weight_decay=schedule.weight_decay)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def _loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[2:] != labels.shape[1:]:
            logits = nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        loss: Tensor = self.loss(logits.float(), labels)
        return loss


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """As many random samples as the schedule takes; sample n is a pure function of the seed and n."""

    def __init__(self, photos: Sequence[Photo], schedule: VocSchedule) -> None:
        self._photos = photos
        self._schedule = schedule

    def __len__(self) -> int:
        return self._schedule.iterations * self._schedule.batch_size

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(number, len(self._photos))
        order = np.random.default_rng((self._schedule.seed, epoch)).permutation(len(self._photos))
        photo = self._photos[order[place]]
        random = np.random.default_rng((self._schedule.seed, epoch, place + 1))
        pixels = torch.from_numpy(read_photo(photo).array[..., 0].copy()).float() / 255
        labels = torch.from_numpy(read_labels(photo).array[..., 0].astype(np.int64))
        low, high = self._schedule.scales
        if (scale := random.uniform(low, high)) != 1:
            size = [max(1, round(n * scale)) for n in labels.shape]
            pixels = nn.functional.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]
            labels = nn.functional.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0].long()
        if self._schedule.flip and random.random() < 0.5:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        return self._cropped(pixels, labels, random) if self._schedule.crop else (pixels, labels)

    def _cropped(self, pixels: Tensor, labels: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A square of the crop's size; what lies beyond the photo is grey and not judged."""
        crop = self._schedule.crop
        rows, columns = labels.shape
        beyond = (0, max(0, crop - columns), 0, max(0, crop - rows))
        pixels = nn.functional.pad(pixels, beyond, value=0.45)
        labels = nn.functional.pad(labels, beyond, value=IGNORE)
        top, left = (int(random.integers(0, n - crop + 1)) for n in labels.shape)
        window = (slice(top, top + crop), slice(left, left + crop))
        return pixels[:, *window], labels[window]


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
