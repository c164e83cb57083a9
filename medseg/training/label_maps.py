"""Label maps without images: reading them, and the patches and scans that are made of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medseg.config import TrainConfig
from medseg.errors import ConfigError, InputError
from medseg.formats import read_segmentation
from medseg.geometry import Geometry
from medseg.labels import BACKGROUND
from medseg.likeness import Outline, Seen
from medseg.prepare import prepare
from medseg.training.augmentation import IMAGE, LABEL
from medseg.training.cases import Case
from medseg.training.synthesis import Place, deform, mirrored, synthesise
from medseg.training_settings import Synthesis
from medseg.volume import Segmentation, Volume

_MARGIN_MM = 20.0  # of empty space around a scan that is made for validation


@dataclass(frozen=True, eq=False)
class LabelMap:
    """An annotated head without an image.

    Attributes:
        name: Of the case.
        structures: For every voxel (I, J, K) the place of its value in `values`; cropped to what is not empty.
        values: Of the file, ascending; the first is empty space.
        channels: The network's channel of each value.
        geometry: Of the cropped map, in the model's orientation.
        middle: Voxel in the middle of what has a channel.
    """

    name: str
    structures: NDArray[np.uint8]
    values: tuple[int, ...]
    channels: NDArray[np.int64]
    geometry: Geometry
    middle: NDArray[np.float64]


def read_map(case: Case, config: TrainConfig) -> LabelMap:
    """Read a label map, turn it to the model's orientation and crop it.

    Raises:
        InputError: If the file cannot be read, has no empty space, or holds a value that stands for no label.
    """
    file = read_segmentation(case.label)
    codes = nib.orientations.axcodes2ornt(tuple(config.preparation.orientation))
    turn = nib.orientations.ornt_transform(nib.io_orientation(file.geometry.affine), codes)
    array = nib.orientations.apply_orientation(file.array, turn)
    affine = file.geometry.affine @ nib.orientations.inv_ornt_aff(turn, file.array.shape)
    found, structures = np.unique(array, return_inverse=True)
    values = tuple(found.tolist())
    meant = [config.data.values.get(value, value) for value in values]
    channel_of = {BACKGROUND: 0} | {index: n for n, index in enumerate(config.labels.indices, start=1)}
    if wrong := [value for value, index in zip(values, meant, strict=True) if index not in channel_of]:
        raise InputError(
            f"Case {case.name}: {case.label} holds the value {wrong[0]}, which stands for no label; "
            "say in data.values what it is, or 0 for background."
        )
    if values[0] != BACKGROUND or len(values) > 256:
        raise InputError(f"Case {case.name}: {case.label} holds no empty space (0), or more than 256 values.")
    channels = np.array([channel_of[index] for index in meant])
    structures = structures.reshape(array.shape)
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(structures))
    labelled = np.nonzero(channels[structures[box]])
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    cropped: NDArray[np.uint8] = np.ascontiguousarray(structures[box], dtype=np.uint8)
    middle = np.array([(axis.min() + axis.max()) / 2 for axis in labelled])
    return LabelMap(case.name, cropped, values, channels, Geometry(cropped.shape, affine), middle)


class SynthesisDataset(Dataset[dict[str, torch.Tensor]]):
    """Synthetic patches, each a pure function of (seed, epoch, index): workers and interruptions change nothing.

    Items are those of `PatchDataset`.
    """

    def __init__(self, maps: Sequence[LabelMap], config: TrainConfig) -> None:
        self._maps = maps
        self._training = config.training
        self._config = config

    def __len__(self) -> int:
        return len(self._maps) * self._training.samples_per_case

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        random = np.random.default_rng((self._training.seed, epoch, index + 1))
        chosen = self._maps[index % len(self._maps)]
        settings = self._synthesis
        reach = settings.reach_mm / np.array(chosen.geometry.spacing_mm)
        centre = chosen.middle + random.uniform(-reach, reach)
        spacing = patch_spacing(self._config)
        place = Place(self._training.patch, spacing, centre)
        structures = deform(chosen.structures, chosen.geometry.spacing_mm, place, settings, random)
        if random.random() < 0.5:
            structures = mirrored(structures, chosen.values, settings.sides)
        image = synthesise(structures, chosen.values, spacing, settings, random)
        grid = Geometry(structures.shape, np.diag([*spacing, 1.0]))
        settled = self._config.preparation.model_copy(update={"orientation": "RAS", "spacing_mm": (None, None, None)})
        prepared = prepare(Volume(image[np.newaxis], grid), settled).array
        return {IMAGE: torch.from_numpy(prepared), LABEL: torch.from_numpy(chosen.channels[structures][np.newaxis])}

    @property
    def _synthesis(self) -> Synthesis:
        settings = self._training.synthesis
        assert settings is not None
        return settings


def patch_spacing(config: TrainConfig) -> tuple[float, float, float]:
    """Voxels of the model's grid in mm.

    Raises:
        ConfigError: If the preparation leaves them to the scan: a synthetic one has none.
    """
    i, j, k = config.preparation.spacing_mm
    if i is None or j is None or k is None:
        raise ConfigError("training.synthesis needs preparation.spacing_mm along every axis.")
    return i, j, k


def seen_in(maps: Sequence[LabelMap], config: TrainConfig) -> Seen:
    """What the scans made of some maps are like: of the maps' extent, from the maps' own voxels to the thickest."""
    settings = config.training.synthesis
    assert settings is not None
    outlines = []
    for one in maps:
        shortest, middle, longest = sorted(one.geometry.extent_mm)
        finest, second, coarsest = sorted(one.geometry.spacing_mm)
        thick = max(coarsest, settings.slice_mm)
        both = ((finest, second, coarsest), (finest, second, thick))
        outlines += [Outline((shortest, middle, longest), spacings, (0.0, 1.0)) for spacings in both]
    return Seen.over(outlines, with_intensities=False)


def scan_of(chosen: LabelMap, config: TrainConfig, contrast: int) -> tuple[Volume, Segmentation]:
    """A whole synthetic scan with its labels, for validation: the same whenever it is asked for.

    It lies on the model's grid, without thick slices, and is bent and coloured as the patches are.

    Args:
        chosen: A map that was kept out.
        config: Of the training run.
        contrast: Which of the scans of this map.
    """
    settings = config.training.synthesis
    assert settings is not None
    random = np.random.default_rng((config.training.seed, zlib.crc32(chosen.name.encode()), contrast))
    spacing = patch_spacing(config)
    extent = np.array(chosen.geometry.extent_mm) + 2 * _MARGIN_MM
    i, j, k = (math.ceil(length / step) for length, step in zip(extent, spacing, strict=True))
    centre = (np.array(chosen.geometry.shape) - 1) / 2
    structures = deform(
        chosen.structures, chosen.geometry.spacing_mm, Place((i, j, k), spacing, centre), settings, random
    )
    thin = settings.model_copy(update={"slice_share": 0.0})
    image = synthesise(structures, chosen.values, spacing, thin, random)
    directions = chosen.geometry.affine[:3, :3] / np.array(chosen.geometry.spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = chosen.geometry.to_world(centre) - affine[:3, :3] @ ((np.array((i, j, k)) - 1) / 2)
    grid = Geometry((i, j, k), affine)
    indices = np.array((BACKGROUND, *config.labels.indices), dtype=config.labels.dtype)
    labels = Segmentation(indices[chosen.channels[structures]], grid, config.labels)
    return Volume(image[np.newaxis], grid, "MR"), labels
