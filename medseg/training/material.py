"""What a run trains on and is measured with, whether scans are read or made from label maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from medseg.config import ScaleIntensityRange, TrainConfig
from medseg.errors import ConfigError
from medseg.likeness import Seen
from medseg.prepare import prepare, prepare_labels
from medseg.training.cases import Case, read_image, read_reference
from medseg.training.dataset import PatchDataset, PreparedCase, load_cases
from medseg.training.label_maps import LabelMap, SynthesisDataset, read_map, scan_of, seen_in
from medseg.training.progress import counter
from medseg.volume import Segmentation, Volume


@dataclass(frozen=True)
class Material:
    """The data of a run, read once.

    Attributes:
        patches: To train on.
        validated: Prepared scans that took no part in training.
        kept_out: The cases or maps that these are, or are made of.
        config: Of the run.
        seen: What the scans trained on were like.
        maps: The maps that were kept out, where scans are made of them.
    """

    patches: Dataset[dict[str, torch.Tensor]]
    validated: Sequence[PreparedCase]
    kept_out: Sequence[Case]
    config: TrainConfig
    seen: Seen
    maps: Sequence[LabelMap] = ()

    def scans(self) -> Iterator[tuple[str, Volume, Segmentation]]:
        """Every scan that took no part in training, as a user would meet it: name, scan, labels on its grid."""
        if self.maps:
            yield from _made(self.maps, self.config)
            return
        for case in self.kept_out:
            volume = read_image(case)
            yield case.name, volume, read_reference(case, self.config.labels, volume.geometry, self.config.data.values)


def gather(train: Sequence[Case], kept_out: Sequence[Case], config: TrainConfig, *, progress: bool) -> Material:
    """Read and prepare what a run needs; it stays in memory.

    Raises:
        ConfigError: If the cases have no images and the run does not make any.
        InputError: If a file cannot be read, or holds values that are no labels.
        GeometryError: If the image and label grids of a case differ.
    """
    cases = [*train, *kept_out]
    with counter("reading cases", show=progress) as count:
        if config.training.synthesis is None:
            if bare := next((case for case in cases if not case.channels), None):
                raise ConfigError(f"{bare.label}: a label map without an image; training.synthesis makes images of it.")
            prepared = load_cases(cases, config, count)
            trained, validated = prepared[: len(train)], prepared[len(train) :]
            in_units = isinstance(config.preparation.intensity, ScaleIntensityRange)
            seen = Seen.over([one.outline for one in trained if one.outline is not None], with_intensities=in_units)
            return Material(PatchDataset(trained, config), validated, kept_out, config, seen)
        maps = []
        for case in cases:
            maps.append(read_map(case, config))
            count(len(maps), len(cases))
    trained_maps, held = maps[: len(train)], maps[len(train) :]
    validated = []
    for name, volume, reference in _made(held, config):
        image = prepare(volume, config.preparation)
        validated.append(PreparedCase(name, image, prepare_labels(reference, image.geometry), ()))
    return Material(
        SynthesisDataset(trained_maps, config), validated, kept_out, config, seen_in(trained_maps, config), held
    )


def _made(maps: Sequence[LabelMap], config: TrainConfig) -> Iterator[tuple[str, Volume, Segmentation]]:
    settings = config.training.synthesis
    assert settings is not None
    for one in maps:
        for contrast in range(settings.contrasts):
            yield f"{one.name}, contrast {contrast + 1}", *scan_of(one, config, contrast)
