"""Random samples of photos, as papers train on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from medseg.convention import InputConvention
from medseg.prepare import prepare
from medseg.voc.dataset import IGNORE, Photo, read_labels, read_photo
from medseg.voc.schedule import VocSchedule
from medseg.voc.weights import preparation_of

_BLUR_SD = 1.1  # pixels: OpenCV's for a kernel of 5, as the authors of PSPNet blur


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """As many random samples as the schedule takes; sample n is a pure function of the seed and n.

    A sample is a photo (3, rows, columns) as the network sees it, and its classes (rows, columns).
    """

    def __init__(self, photos: Sequence[Photo], schedule: VocSchedule, convention: InputConvention) -> None:
        self._photos = photos
        self._schedule = schedule
        self._preparation = preparation_of(convention)

    def __len__(self) -> int:
        return self._schedule.samples

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        schedule = self._schedule
        epoch, place = divmod(number, len(self._photos))
        order = np.random.default_rng((schedule.seed, epoch)).permutation(len(self._photos))
        photo = self._photos[order[place]]
        random = np.random.default_rng((schedule.seed, epoch, place + 1))
        pixels = torch.from_numpy(prepare(read_photo(photo), self._preparation).array[..., 0])
        labels = torch.from_numpy(read_labels(photo).array[..., 0].astype(np.int64))
        low, high = schedule.scales
        if (scale := random.uniform(low, high)) != 1:
            pixels, labels = _scaled(pixels, labels, scale)
        if schedule.rotation_degrees and random.random() < 0.5:
            reach = math.radians(schedule.rotation_degrees)
            pixels, labels = _rotated(pixels, labels, random.uniform(-reach, reach))
        if schedule.blur and random.random() < 0.5:
            pixels = torch.from_numpy(gaussian_filter(pixels.numpy(), (0, _BLUR_SD, _BLUR_SD), radius=(0, 2, 2)))
        if schedule.flip and random.random() < 0.5:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        return _cropped(pixels, labels, schedule.crop, random) if schedule.crop else (pixels, labels)


class From(Sampler[int]):
    """Numbers in order from a first one on, counted as if from 0: what a resumed run still takes."""

    def __init__(self, first: int, total: int) -> None:
        self._first, self._total = first, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first, self._total))

    def __len__(self) -> int:
        return self._total


def _scaled(pixels: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    size = [max(1, round(n * scale)) for n in labels.shape]
    pixels = nn.functional.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]
    return pixels, nn.functional.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0].long()


def _rotated(pixels: Tensor, labels: Tensor, radians: float) -> tuple[Tensor, Tensor]:
    """Turned about the middle; what comes from beyond the photo is the mean colour and not judged."""
    rows, columns = labels.shape
    cosine, sine = math.cos(radians), math.sin(radians)
    # In units of half the sides, in which torch counts; an angle is one of pixels.
    turn = torch.tensor([[cosine, -sine * rows / columns, 0.0], [sine * columns / rows, cosine, 0.0]])
    grid = nn.functional.affine_grid(turn[None], [1, 1, rows, columns], align_corners=False)
    pixels = nn.functional.grid_sample(pixels[None], grid, align_corners=False)[0]
    beyond = (labels - IGNORE)[None, None].float()  # what is sampled from outside is 0, and IGNORE again after this
    labels = nn.functional.grid_sample(beyond, grid, mode="nearest", align_corners=False)[0, 0].long() + IGNORE
    return pixels, labels


def _cropped(pixels: Tensor, labels: Tensor, crop: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A square of the crop's size; what lies beyond the photo is the mean colour and not judged."""
    rows, columns = labels.shape
    beyond = (0, max(0, crop - columns), 0, max(0, crop - rows))
    pixels = nn.functional.pad(pixels, beyond)
    labels = nn.functional.pad(labels, beyond, value=IGNORE)
    top, left = (int(random.integers(0, n - crop + 1)) for n in labels.shape)
    window = (slice(top, top + crop), slice(left, left + crop))
    return pixels[:, *window], labels[window]
