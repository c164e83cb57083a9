"""What is to be measured, in the user's words: metrics, merged labels, and labels under other numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.labels import BACKGROUND, LabelSet
from medseg.metrics import METRICS, Metric
from medseg.volume import Segmentation

Region = tuple[int, ...]
Plane: TypeAlias = Literal["axial", "coronal", "sagittal", "acquired"]

# A centre line of every organ costs more than all else together, and says something of tubes alone.
DEFAULT_METRICS = tuple(metric.name for metric in METRICS if metric.name != "centreline_dice")


@dataclass(frozen=True)
class Measuring:
    """How two segmentations are compared.

    Attributes:
        metrics: Names in `METRICS`.
        tolerance_mm: Of the surface Dice.
        ignore: Voxels with this label in the reference take no part.
        merge: Regions such as "liver = liver + lesion", by names or numbers; one of a label's own name replaces it.
        mapping: {label of the prediction: label of the reference}, each a name or a number; or "names", for labels of
            one name to be one whatever their numbers.
        per_slice: The plane in which every slice is measured for itself; None measures the whole.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    tolerance_mm: float = 1.0
    ignore: int | None = None
    merge: tuple[str, ...] = ()
    mapping: Mapping[str, str] | Literal["names"] = field(default_factory=dict)
    per_slice: Plane | None = None

    @property
    def rows(self) -> tuple[Metric, ...]:
        """The metrics, in the order of the table.

        Raises:
            ConfigError: If there is no metric of a name.
        """
        known = {metric.name: metric for metric in METRICS}
        if unknown := [name for name in self.metrics if name not in known]:
            raise ConfigError(f"No metric is named {unknown[0]!r}; there are: {', '.join(known)}.")
        return tuple(metric for metric in METRICS if metric.name in self.metrics)

    def regions(self, names: Mapping[int, str], present: Sequence[int]) -> dict[str, Region]:
        """What is measured: every label that is named or occurs, and the merged ones in the place of their names.

        Raises:
            ConfigError: If a merge cannot be understood, or names a label that there is not.
        """
        indices = sorted({*names, *present} - {BACKGROUND, self.ignore})
        regions: dict[str, Region] = {names.get(i, f"label {i}"): (i,) for i in indices}
        for text in self.merge:
            name, equals, parts = text.partition("=")
            if not equals or not name.strip() or not parts.strip():
                raise ConfigError(f"Merge {text!r} is not of the form 'liver = liver + lesion'.")
            members = [label_index(part.strip(), names) for part in parts.split("+")]
            regions[name.strip()] = tuple(dict.fromkeys(members))
        return regions


def measuring_of(*, mapping: Path | None = None, metrics: str | None = None, **options: Any) -> Measuring:
    """From what a command line gives: a mapping's file, names with commas in between, and `Measuring`'s own fields.

    Raises:
        ConfigError: If the mapping cannot be read.
    """
    if metrics is not None:
        options["metrics"] = tuple(name.strip() for name in metrics.split(",") if name.strip())
    return Measuring(mapping=load_mapping(mapping) if mapping else {}, **options)


def label_index(text: str, names: Mapping[int, str]) -> int:
    """The label of a name, or else of a number.

    Raises:
        ConfigError: If it is neither a name in the set nor a whole number.
    """
    for index, name in names.items():
        if name.casefold() == text.casefold():
            return index
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"No label is named {text!r}; there are: {', '.join(names.values()) or 'numbers alone'}.")


def load_mapping(path: Path) -> dict[str, str] | Literal["names"]:
    """Read {label of the prediction: label of the reference} from a JSON or YAML file; "names" stands for itself.

    Raises:
        ConfigError: If the file cannot be read, or is no such mapping.
    """
    if str(path) == "names":
        return "names"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a mapping ({error.__class__.__name__}).") from None
    if not isinstance(content, dict) or any(isinstance(value, dict | list) for value in content.values()):
        raise ConfigError(f"{path}: is not a mapping of labels, such as {{lesion: tumour, 3: liver, 7: 0}}.")
    return {str(key): str(value) for key, value in content.items()}


def mapped(
    prediction: Segmentation, mapping: Mapping[str, str] | Literal["names"], reference: LabelSet | None
) -> Segmentation:
    """The prediction under the reference's label numbers; labels that the mapping does not list keep theirs.

    Raises:
        ConfigError: If the mapping names a label that there is not, or names are to decide and a file has none.
    """
    if not mapping:
        return prediction
    theirs, ours = (labels.names if labels else {} for labels in (prediction.labels, reference))
    if mapping == "names":
        moves = _by_names(theirs, ours)
        labels = LabelSet.from_names({moves[index]: name for index, name in theirs.items()})
        return replace(prediction, array=_renumbered(prediction.array, moves), labels=labels)
    moves = {label_index(key, theirs): label_index(value, {**ours, 0: "background"}) for key, value in mapping.items()}
    return replace(prediction, array=_renumbered(prediction.array, moves), labels=None)


def _by_names(theirs: Mapping[int, str], ours: Mapping[int, str]) -> dict[int, int]:
    """From the prediction's numbers to the reference's of the same name; names of neither go beyond all numbers."""
    if not theirs or not ours:
        raise ConfigError("--map names needs names of labels in both files; give a mapping file instead.")
    numbers = {name.casefold(): index for index, name in ours.items()}
    beyond = max(*theirs, *ours) + 1
    return {
        index: numbers.get(name.casefold(), index if index not in ours else beyond + place)
        for place, (index, name) in enumerate(theirs.items())
    }


def _renumbered(array: NDArray[np.integer[Any]], moves: Mapping[int, int]) -> NDArray[np.integer[Any]]:
    numbers = np.arange(max(int(array.max(initial=0)), *moves) + 1)
    for old, new in moves.items():
        numbers[old] = new
    return np.asarray(numbers.astype(np.min_scalar_type(int(numbers.max())))[array])
