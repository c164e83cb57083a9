"""Which model segments a scan, and how: the user's options on top of the model's own conventions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bundle import ModelInfo, find_model, read_info, shipped_models
from medseg.config import PredictConfig, Windows
from medseg.errors import ConfigError, ModelError
from medseg.geometry import Geometry
from medseg.inputs import Input, read_input
from medseg.labels import LabelSet
from medseg.settings import ComponentSettings

FAST_OVERLAP = 0.25


@dataclass(frozen=True)
class Choice:
    """All that decides the outputs of a case besides the scan.

    Attributes:
        folder: The model's.
        info: What the model says of itself.
        settings: What the user asked for.
    """

    folder: Path
    info: ModelInfo
    settings: PredictConfig

    @property
    def labels(self) -> LabelSet:
        """The labels that the mask shall hold.

        Raises:
            ConfigError: If the user asks for a label that the model does not have.
        """
        wanted = self.settings.roi_subset
        return self.info.labels.subset(wanted) if wanted else self.info.labels

    @property
    def windows(self) -> Windows:
        """The model's windows as the options change them; an overlap that is given outright wins over --fast."""
        settings = self.settings
        changes: dict[str, Any] = {}
        if settings.fast or settings.disable_tta:
            changes["mirror_axes"] = ()
        if settings.fast:
            changes["overlap"] = min(FAST_OVERLAP, self.info.windows.overlap)
        if settings.overlap is not None:
            changes["overlap"] = settings.overlap
        changes |= settings.model_dump(include={"tiling", "precision"}, exclude_none=True)
        if settings.body_only:
            changes["body_only"] = True
        return self.info.windows.model_copy(update=changes)

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """The options by which labels may differ from those that the model's own conventions give."""
        settings, own = self.settings, self.info.windows
        asked = [("--fast", settings.fast), ("--body-only", settings.body_only and not own.body_only)]
        if settings.tiling is not None:
            asked.append((f"--tiling {settings.tiling}", settings.tiling != own.tiling))
        if settings.precision is not None:
            asked.append((f"--precision {settings.precision}", settings.precision != own.precision))
        return tuple(option for option, differs in asked if differs)

    @property
    def crf(self) -> str | None:
        """The preset of the dense CRF that refines the scores, if one is asked for."""
        if self.settings.crf != "auto":
            return self.settings.crf
        return "ct" if self.info.accepts.modalities == ("CT",) else "mr"

    @property
    def components(self) -> ComponentSettings:
        """What is cleaned up, its labels as the model's channels.

        Raises:
            ConfigError: If a label is named that the model does not have.
        """
        asked, indices = self.settings.components, self.info.labels.indices
        if unknown := [label for label in asked.labels if label not in indices]:
            raise ConfigError(f"components.labels: {unknown[0]} is none of the model's; there are {list(indices)}.")
        return asked.model_copy(update={"labels": tuple(1 + indices.index(label) for label in asked.labels)})

    def to_json(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON values."""
        return {
            "model": f"{self.info.name} {self.info.card.version}",
            "preparation": self.info.preparation.model_dump(mode="json"),
            "windows": self.windows.model_dump(mode="json"),
            "labels": {str(index): name for index, name in self.labels.names.items()},
            "crf": self.crf,
            "components": self.settings.components.model_dump(mode="json"),
            **self.settings.model_dump(mode="json", include={"fast", "output_type", "statistics", "preview", "report"}),
        }


def named(settings: PredictConfig) -> Choice | None:
    """The model that the settings name; None if each scan is to find its own.

    Raises:
        ModelError: If there is no such model.
        ConfigError: If the model has no label of a name that is asked for.
    """
    return _checked(find_model(settings.model), settings) if settings.model else None


def fitting(scan: Input, settings: PredictConfig) -> Choice:
    """The one shipped model that takes a scan.

    Raises:
        ModelError: If none or several do; the message says why each does not.
        ConfigError: If the model has no label of a name that is asked for.
        InputError: If the scan has to be opened for the choice and cannot be read.
    """
    geometry, modality = _outline(scan)
    infos = [(folder, read_info(folder)) for folder in shipped_models().values()]
    objections = [
        (folder, info.name, "has to be named" if info.accepts.by_name_only else info.objection(geometry, modality))
        for folder, info in infos
    ]
    fit = [(folder, name) for folder, name, objection in objections if objection is None]
    if len(fit) == 1:
        return _checked(fit[0][0], settings)
    where = scan.paths[0]
    if fit:
        names = ", ".join(name for _, name in fit)
        raise ModelError(f"{where}: several models take this scan: {names}; choose one with --model.")
    reasons = "; ".join(f"{name} {objection}" for _, name, objection in objections) or "none is installed"
    raise ModelError(f"{where}: no shipped model takes this scan ({reasons}); choose one with --model.")


def _checked(folder: Path, settings: PredictConfig) -> Choice:
    choice = Choice(folder, read_info(folder), settings)
    _ = choice.labels  # an unknown label is an error before any voxel is read
    return choice


def _outline(scan: Input) -> tuple[Geometry, str | None]:
    """Shape, spacing and modality of a scan, from its headers where these tell."""
    series = scan.series[0]
    if series.shape and series.spacing_mm:
        return Geometry(series.shape, np.diag([*series.spacing_mm, 1.0])), series.modality
    volume = read_input(scan, channels=1, frame=0 if series.frames > 1 else None)
    return volume.geometry, volume.modality
