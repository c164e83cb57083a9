"""VOC's number: one confusion matrix over all photos of a list, and the mean IoU of its 21 classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medseg.inference import predict, resample
from medseg.metrics import Confusion, confusion, iou, pixel_accuracy
from medseg.model import Model
from medseg.pipeline import Refiner, label
from medseg.prepare import prepare
from medseg.voc.dataset import CLASSES, IGNORE, Photo, read_labels, read_photo
from medseg.volume import Segmentation, Slab, Volume

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # DeepLab v3's, also used by PSPNet
_NAMES = ("background", *CLASSES)


@dataclass(frozen=True)
class VocResult:
    """What was measured.

    Attributes:
        confusion: Over all photos, without the pixels that are not judged.
        photos: How many there were.
    """

    confusion: Confusion
    photos: int

    @property
    def class_iou(self) -> dict[str, float]:
        """IoU of each of the 21 classes; NaN for one that occurs nowhere."""
        values = dict(zip(self.confusion.indices, iou(self.confusion).tolist(), strict=True))
        return {name: values.get(index, np.nan) for index, name in enumerate(_NAMES)}

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur: VOC's "segmentation accuracy", as a share of 1."""
        return float(np.nanmean(list(self.class_iou.values())))

    def to_json(self) -> dict[str, Any]:
        """As plain values; a class that occurs nowhere is null."""
        classes = {name: None if np.isnan(value) else value for name, value in self.class_iou.items()}
        accuracy = pixel_accuracy(self.confusion)
        return {"mean_iou": self.mean_iou, "pixel_accuracy": accuracy, "photos": self.photos, "class_iou": classes}


def evaluate_photos(
    photos: Sequence[Photo],
    predictor: Callable[[Volume], Segmentation],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> VocResult:
    """Predict every photo at its full size and count.

    Args:
        photos: What `find_photos` gives.
        predictor: From a photo (3, rows, columns, 1) to its classes (rows, columns, 1).
        progress: Called with (photos done, photos in all).

    Raises:
        InputError: If a file is damaged; an official number cannot leave photos out.
        GeometryError: If a photo and its labels differ in size.
    """

    def counted() -> Iterator[Confusion]:
        for number, photo in enumerate(photos, start=1):
            reference = read_labels(photo)
            prediction = predictor(read_photo(photo))
            yield confusion(reference.array, prediction.array, tuple(range(len(_NAMES)))).ignoring(IGNORE)
            progress(number, len(photos))

    return VocResult(summed(counted()), len(photos))


def summed(parts: Iterable[Confusion]) -> Confusion:
    """All counts together."""
    total: Confusion | None = None
    for part in parts:
        total = part if total is None else total + part
    assert total is not None  # a list has at least one photo
    return total


def segment_photo(
    photo: Volume,
    model: Model,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    refiners: Sequence[Refiner] = (),
    device: torch.device | str = "cpu",
) -> Segmentation:
    """Classify every pixel of a photo, by the steps that segment a scan, once for every scale.

    Args:
        photo: (3, rows, columns, 1), uint8.
        model: A 2D network.
        scales: Sizes at which the network sees the photo; probabilities are averaged over them.
        flip: Whether it sees each of them mirrored too.
        refiners: Such as a dense CRF.
        device: Where the network runs.
    """
    total: torch.Tensor | None = None
    for scale in scales:
        # A larger photo is one of smaller pixels.
        spacing_mm = (None, None, None) if scale == 1 else (1 / scale, 1 / scale, None)
        prepared = prepare(photo, model.preparation.model_copy(update={"spacing_mm": spacing_mm}))
        rows, columns, _ = prepared.geometry.shape
        # The window is the photo: everything is seen at once, as the papers test.
        whole: dict[str, Any] = {"size": (rows, columns, 1), "overlap": 0.0, "weights": "constant"}
        whole |= {"mirror_axes": (1,) if flip else (), "average": "probabilities"}
        slabs = predict(prepared, model.network, model.windows.model_copy(update=whole), device=device)
        scores = _gathered(resample(slabs, prepared.geometry, to=photo.geometry), photo)
        total = scores if total is None else total + scores
    assert total is not None
    refined: Iterator[Slab] = iter([Slab(total / len(scales), 2, 0, are_probabilities=True)])
    for refine in refiners:
        refined = refine(refined, photo)
    return label(refined, model.labels, photo.geometry)


def _gathered(slabs: Iterator[Slab], photo: Volume) -> torch.Tensor:
    """The probabilities (classes, rows, columns, 1) of all slabs."""
    first = next(slabs)
    total = torch.zeros(first.scores.shape[0], *photo.geometry.shape)
    for slab in (first, *slabs):
        planes = [slice(None)] * 4
        planes[1 + slab.axis] = slice(slab.start, slab.stop)
        total[tuple(planes)] = slab.probabilities.cpu()
    return total
