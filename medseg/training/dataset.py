"""Prepared cases in memory, and the random patches that a network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from medseg.config import TrainConfig
from medseg.errors import ConfigError
from medseg.inference.windows import cut
from medseg.labels import BACKGROUND
from medseg.likeness import Outline
from medseg.prepare import prepare, prepare_labels
from medseg.resources import cores
from medseg.training import augmentation, hardware
from medseg.training.cases import Case, read_image, read_reference
from medseg.volume import Segmentation, Volume

# Candidate centres per label and case that are kept in memory.
_MOST_CENTRES = 10_000


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the model's grid, as prediction would see it.

    Attributes:
        name: Of the case.
        image: Prepared scan (C, I, J, K).
        reference: Its labels on the same grid.
        outline: Of the scan as it was read; None of a scan that was made.
        centres: For each label that occurs, voxels (n, 3) of it to centre patches on.
    """

    name: str
    image: Volume
    reference: Segmentation
    centres: tuple[NDArray[np.int64], ...]
    outline: Outline | None = None


def load_cases(
    cases: Sequence[Case], config: TrainConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[PreparedCase]:
    """Read, check and prepare every case once, in parallel; all of them stay in memory.

    Args:
        cases: What to read.
        config: Of the training run.
        progress: Called with (cases done, cases in all).

    Raises:
        InputError: If a file cannot be read, or labels are outside the label set.
        GeometryError: If the image and label grids of a case differ.
        ConfigError: If a case has other channels than the network takes.
    """
    prepared = []
    with ThreadPoolExecutor(cores()) as pool:
        reading = [pool.submit(_load, case, config) for case in cases]
        try:
            for future in reading:
                prepared.append(future.result())
                progress(len(prepared), len(cases))
        finally:
            for future in reading:
                future.cancel()
    return prepared


def _load(case: Case, config: TrainConfig) -> PreparedCase:
    volume = read_image(case)
    reference = read_reference(case, config.labels, volume.geometry, config.data.values)
    if (found := len(volume.array)) != config.network.in_channels:
        raise ConfigError(
            f"Case {case.name}: the image has {found} channel(s), but network.in_channels is "
            f"{config.network.in_channels}; correct the configuration."
        )
    image = prepare(volume, config.preparation)
    labels = prepare_labels(reference, image.geometry)
    return PreparedCase(case.name, image, labels, tuple(_centres(labels)), Outline.of(volume))


def _centres(labels: Segmentation) -> Iterator[NDArray[np.int64]]:
    for index in np.unique(labels.array):
        if index != BACKGROUND:
            voxels = np.argwhere(labels.array == index)
            yield voxels[:: -(-len(voxels) // _MOST_CENTRES)]


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Random patches, each a pure function of (seed, epoch, index): workers and interruptions change nothing.

    Items are dictionaries of `image` (C, *patch) float32 and `label` (1, *patch) int64 with network channels
    (0 background, n the nth label); a 2D network's patch lacks its thin axis.
    """

    def __init__(self, cases: Sequence[PreparedCase], config: TrainConfig) -> None:
        self._cases = cases
        self._windows = config.windows
        self._training = config.training
        self._index_of_channel = np.array((BACKGROUND, *config.labels.indices))
        settings, patch, thin = config.training.augmentation, config.training.patch, config.windows.thin_axis
        self._transforms = augmentation.build(settings, patch, thin)
        self._margin = augmentation.margin(settings, patch, thin)
        i, j, k = (n + 2 * margin for n, margin in zip(patch, self._margin, strict=True))
        self._size = (i, j, k)

    def __len__(self) -> int:
        return len(self._cases) * self._training.samples_per_case

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        random = np.random.default_rng((self._training.seed, epoch, index + 1))
        case = self._cases[index % len(self._cases)]
        first = self._first_voxel(case, random)
        i, j, k = (n - margin for n, margin in zip(first, self._margin, strict=True))
        thin = self._windows.thin_axis
        # The same cut as prediction makes.
        context = (thin or 0, self._windows.context)
        image = cut(case.image.array, (i, j, k), self._size, self._windows.padding_value, context=context)
        label = cut(case.reference.array[None], (i, j, k), self._size, BACKGROUND)
        if thin is not None:
            image, label = image.squeeze(1 + thin), label.squeeze(1 + thin)
        self._transforms.set_random_state(seed=int(random.integers(2**32)))
        patch = self._transforms({augmentation.IMAGE: image.clone(), augmentation.LABEL: label.float()})
        channels = np.searchsorted(self._index_of_channel, patch[augmentation.LABEL].numpy())
        return {augmentation.IMAGE: patch[augmentation.IMAGE], augmentation.LABEL: torch.from_numpy(channels)}

    def _first_voxel(self, case: PreparedCase, random: np.random.Generator) -> list[int]:
        """Of a patch within the volume; where the volume is smaller, it lies as prediction pads it."""
        patch, shape = np.array(self._training.patch), np.array(case.image.geometry.shape)
        last = np.maximum(shape - patch, 0)
        if case.centres and random.random() < self._training.foreground_share:
            voxels = case.centres[random.integers(len(case.centres))]
            first = np.clip(voxels[random.integers(len(voxels))] - patch // 2, 0, last)
        else:
            beyond = np.where(patch == 1, 0, (self._training.overhang * patch).astype(int))
            first = random.integers(-beyond, last + beyond + 1)
        return [int(n) for n in np.where(shape < patch, -((patch - shape) // 2), first)]


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) in an order that is a pure function of (seed, epoch).

    Where several processes train together, each draws its own share of the same order, all of one length.
    The first epoch is told here: loading workers of a resumed run draw their first keys before the trainer says it.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0) -> None:
        self._length = length
        self._seed = seed
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; the trainer calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length // hardware.processes()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length)
        share = order[hardware.rank() :: hardware.processes()][: len(self)]
        return iter([(self._epoch, int(index)) for index in share])
