"""What the numbers in a segmentation mean."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from medseg.errors import ConfigError

BACKGROUND = 0

# A turn of the golden angle from one label to the next keeps neighbouring indices apart in hue.
_GOLDEN_ANGLE = 0.61803398875


class Code(BaseModel):
    """A DICOM coded concept (PS3.3, 8.8), usually SNOMED CT: scheme "SCT", value, meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    scheme: str
    value: str
    meaning: str


class Label(BaseModel):
    """One structure: its number in the voxels, its name, and optionally its DICOM code and colour (RGB, 0-255)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    index: int = Field(ge=1)
    name: str = Field(min_length=1)
    code: Code | None = None
    colour: tuple[int, int, int] | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The label's own colour, or one derived from its index."""
        if self.colour is not None:
            return self.colour
        hue = (self.index * _GOLDEN_ANGLE) % 1
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.95))
        return red, green, blue


class LabelSet(BaseModel):
    """The structures that a segmentation may hold, in ascending order of index; 0 is always background."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    labels: tuple[Label, ...] = Field(min_length=1)

    @field_validator("labels")
    @classmethod
    def _sorted_and_unique(cls, labels: tuple[Label, ...]) -> tuple[Label, ...]:
        for key in ("index", "name"):
            values = [getattr(label, key) for label in labels]
            if twice := sorted({v for v in values if values.count(v) > 1}):
                raise ValueError(f"label {key} {twice[0]!r} occurs more than once")
        return tuple(sorted(labels, key=lambda label: label.index))

    @classmethod
    def from_names(cls, names: Mapping[int, str]) -> LabelSet:
        """From {index: name}; an entry for index 0 is background and is left out."""
        return cls(labels=tuple(Label(index=i, name=name) for i, name in names.items() if i != BACKGROUND))

    @property
    def indices(self) -> tuple[int, ...]:
        """The label numbers, ascending, without background."""
        return tuple(label.index for label in self.labels)

    @property
    def names(self) -> dict[int, str]:
        """{index: name}, ascending, without background."""
        return {label.index: label.name for label in self.labels}

    @property
    def num_classes(self) -> int:
        """Output channels of a network with these labels: the labels and background."""
        return len(self.labels) + 1

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The smallest unsigned integer type that holds every index."""
        return np.min_scalar_type(max(self.indices))

    def subset(self, names: Iterable[str]) -> LabelSet:
        """The labels with these names.

        Raises:
            ConfigError: If a name is not in the set.
        """
        wanted = set(names)
        if unknown := sorted(wanted - set(self.names.values())):
            raise ConfigError(f"No label is named {unknown[0]!r}; there are: {', '.join(self.names.values())}.")
        return LabelSet(labels=tuple(label for label in self.labels if label.name in wanted))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:  # type: ignore[override]  # pydantic iterates over fields
        return iter(self.labels)

    def __getitem__(self, index: int) -> Label:
        for label in self.labels:
            if label.index == index:
                return label
        raise KeyError(index)
