"""PASCAL VOC's folder layout: lists of names, JPEG photos, and palette PNGs in which 255 is not judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

from medseg.errors import ConfigError, InputError
from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.volume import Segmentation, Volume

IGNORE = 255

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table"),
    *("dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor"),
)


def _palette_colour(index: int) -> tuple[int, int, int]:
    """VOC's own: the bits of the number dealt to red, green and blue in turn, the lowest to their highest bits."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    red, green, blue = channels
    return red, green, blue


LABELS = LabelSet(
    labels=tuple(Label(index=n, name=name, colour=_palette_colour(n)) for n, name in enumerate(CLASSES, start=1))
)


@dataclass(frozen=True)
class Photo:
    """A photo and its labels."""

    name: str
    image: Path
    labels: Path


def find_photos(root: Path, split: str) -> tuple[Photo, ...]:
    """The photos of a list.

    Args:
        root: A folder such as VOCdevkit/VOC2012; another data set in its layout (COCO with VOC's labels); or SBD as
            it is published (benchmark_RELEASE/dataset).
        split: Name of a list in ImageSets/Segmentation (train, val, trainval, seg11valid, train_aug, ...) or beside it
            (SBD), or a file. The labels of SBD's extra photos may lie in SegmentationClassAug, or in cls (MATLAB).

    Raises:
        ConfigError: If there is no such folder or list.
        InputError: If the list is empty, or files are missing.
    """
    folders = (root / "ImageSets" / "Segmentation", root)
    candidates = (*(folder / f"{split}.txt" for folder in folders), Path(split))
    path = next((file for file in candidates if file.is_file()), None)
    if path is None:
        there = ", ".join(sorted(file.stem for folder in folders for file in folder.glob("*.txt"))) or "none"
        raise ConfigError(f"{root}: no list {split!r} in ImageSets/Segmentation (there are: {there}).")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: lists no photos.")
    photos = tuple(_photo(root, words) for words in lines)
    if missing := [file for photo in photos for file in (photo.image, photo.labels) if not file.is_file()]:
        raise InputError(f"{root}: {len(missing)} files of {path.name} are missing, first {missing[0]}.")
    return photos


def _photo(root: Path, words: list[str]) -> Photo:
    if len(words) > 1:  # as the lists of trained networks are: "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png"
        image, labels = (root / word.lstrip("/") for word in words[:2])
        return Photo(image.stem, image, labels)
    name = words[0]
    masks = [root / folder / f"{name}.png" for folder in ("SegmentationClass", "SegmentationClassAug")]
    masks.append(root / "cls" / f"{name}.mat")
    photos = [root / folder / f"{name}.jpg" for folder in ("JPEGImages", "img")]
    image, labels = (next((one for one in files if one.is_file()), files[0]) for files in (photos, masks))
    return Photo(name, image, labels)


def read_photo(photo: Photo) -> Volume:
    """A photo as a volume one voxel thick: (3, rows, columns, 1), RGB, uint8, pixels of 1 mm.

    Raises:
        InputError: If the file is damaged.
    """
    array = _pixels(photo.image, "RGB").transpose(2, 0, 1)[..., None]
    return Volume(array, _grid(array.shape[1], array.shape[2]))


def read_labels(photo: Photo) -> Segmentation:
    """Class numbers (rows, columns, 1); 255 where nothing is judged.

    Raises:
        InputError: If the file is damaged, or is no palette or grey image of VOC's classes.
    """
    array = _of_matlab(photo.labels) if photo.labels.suffix == ".mat" else _pixels(photo.labels, None)
    if array.ndim != 2:
        raise InputError(f"{photo.labels}: has colours, but no palette; give VOC's own palette PNG.")
    if extra := sorted(set(np.unique(array).tolist()) - {0, *LABELS.indices, IGNORE}):
        raise InputError(f"{photo.labels}: holds class {extra[0]}, which VOC does not have (0 to 20, and 255).")
    return Segmentation(array[..., None], _grid(*array.shape), LABELS)


def _pixels(path: Path, mode: str | None) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error.__class__.__name__}); copy it again.") from None


def _of_matlab(path: Path) -> NDArray[Any]:
    """SBD's own form; it judges every pixel."""
    try:
        return np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # SciPy raises many kinds for a file that is not MATLAB's
        raise InputError(f"{path}: cannot be read as SBD's labels ({error.__class__.__name__}).") from None


def _grid(rows: int, columns: int) -> Geometry:
    return Geometry((rows, columns, 1), np.eye(4))
