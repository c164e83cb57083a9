"""Case lists: which files belong together, and which cases are kept out for validation."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from medseg import formats
from medseg.errors import ConfigError, GeometryError, InputError, MedsegError
from medseg.geometry import Geometry
from medseg.labels import BACKGROUND, LabelSet
from medseg.training_settings import DataSettings
from medseg.volume import Segmentation, Volume


@dataclass(frozen=True)
class Channel:
    """One input channel (or more, of a colour image): a file, and for a 4D file which of its frames."""

    path: Path
    frame: int | None = None


@dataclass(frozen=True)
class Case:
    """One annotated scan; those of one group, such as a patient, are never parted by a split."""

    name: str
    channels: tuple[Channel, ...]
    label: Path
    group: str | None = None


def find_cases(root: Path, columns: Mapping[Any, str] | None = None) -> tuple[Case, ...]:
    """List the annotated cases of a data set, sorted by name.

    Args:
        root: Folder of a Medical Segmentation Decathlon task or an nnU-Net raw data set (both have a dataset.json), or
            a CSV file with the columns image, label and optionally case and group. In a CSV, paths are relative to the
            file and several channels are separated by ";". Or a folder of NIfTI files: label maps without images.
        columns: What these columns are made of in a CSV file that has others: `DataSettings.columns`.

    Raises:
        InputError: If there is no case, a case is listed twice, or files are missing.
        ConfigError: If the case list cannot be understood.
    """
    root = Path(root)
    if root.is_dir() and (root / "dataset.json").is_file():
        cases = list(_from_dataset_json(root))
    elif root.is_dir() and (maps := sorted(root.glob("[!.]*.nii*"))):
        cases = [Case(_stem(path), (), path) for path in maps]
    elif root.is_file() and root.suffix.lower() == ".csv":
        cases = list(_from_csv(root, columns or {}))
    else:
        found = (
            "does not exist"
            if not root.exists()
            else "is neither a folder with a dataset.json or label maps nor a .csv file"
        )
        raise ConfigError(f"{root}: {found}; name a Decathlon task, an nnU-Net raw data set or a CSV of cases.")
    if not cases:
        raise InputError(f"{root}: the training list is empty; add cases to it.")
    names = sorted(case.name for case in cases)
    if twice := next((a for a, b in pairwise(names) if a == b), None):
        raise InputError(f"{root}: case {twice} is listed more than once; give every case its own name.")
    _require_files(root, cases)
    return tuple(sorted(cases, key=lambda case: case.name))


def split(cases: Sequence[Case], data: DataSettings) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Part sorted cases into those for training and those for validation.

    With `data.validation` the named cases and groups are kept out; otherwise fold i of n is every nth group from the
    ith on. A case that belongs to no group is one of its own.

    Raises:
        ConfigError: If the fold is out of range, a name is unknown, or a part would be empty.
    """
    groups = {case.name: case.group or case.name for case in cases}
    if data.validation:
        kept_out = set(data.validation)
        if unknown := sorted(kept_out - {*groups, *groups.values()}):
            raise ConfigError(
                f"data.validation names {unknown[0]!r} ({len(unknown)} of {len(kept_out)} unknown), which is not among "
                f"the {len(cases)} cases ({cases[0].name} ...); correct the names."
            )
    else:
        if data.fold >= data.folds:
            raise ConfigError(
                f"data.fold is {data.fold}, but there are folds 0 to {data.folds - 1}; choose one of them."
            )
        kept_out = set(sorted(set(groups.values()))[data.fold :: data.folds])
    validation = tuple(case for case in cases if not kept_out.isdisjoint((case.name, groups[case.name])))
    train = tuple(case for case in cases if case not in validation)
    for part, content in (("training", train), ("validation", validation)):
        if not content:
            raise ConfigError(
                f"The split of {len(cases)} cases leaves none for {part}; change data.folds or data.fold."
            )
    return train, validation


def read_image(case: Case) -> Volume:
    """Read all channels of a case into one volume (C, I, J, K).

    Raises:
        InputError: If a file cannot be read.
        GeometryError: If the channels lie on different grids.
    """
    volumes = [_named(case, lambda channel=channel: _read(channel)) for channel in case.channels]
    first = volumes[0]
    for channel, volume in zip(case.channels, volumes, strict=True):
        if not volume.geometry.matches(first.geometry):
            raise GeometryError(
                f"Case {case.name}: {channel.path} is {volume.geometry}, but {case.channels[0].path} is "
                f"{first.geometry}; resample all channels to one grid."
            )
    return Volume(np.concatenate([v.array for v in volumes]), first.geometry, first.modality, first.findings)


def read_reference(
    case: Case, labels: LabelSet, geometry: Geometry, values: Mapping[int, int] | None = None
) -> Segmentation:
    """Read and check the labels of a case.

    Args:
        case: Whose labels.
        labels: The only indices that may occur, besides background.
        geometry: The grid of the case's image.
        values: What values of the file stand for: `DataSettings.values`.

    Raises:
        InputError: If the file cannot be read, or holds other values.
        GeometryError: If it lies on another grid than the image.
    """
    reference: Segmentation = _named(case, lambda: formats.read_segmentation(case.label))
    if not reference.geometry.matches(geometry):
        raise GeometryError(
            f"Case {case.name}: the label {case.label} is {reference.geometry}, but the image {case.channels[0].path} "
            f"is {geometry}; resample the label to the image."
        )
    found, voxels = np.unique(reference.array, return_inverse=True)
    meant = [(values or {}).get(value, value) for value in found.tolist()]
    if extra := sorted({*meant} - {BACKGROUND, *labels.indices}):
        raise InputError(
            f"Case {case.name}: {case.label} holds the values {_listed(extra)}, which are not in the label set "
            f"({_listed([BACKGROUND, *labels.indices])}); correct the file or the labels of the configuration."
        )
    array = np.array(meant, dtype=labels.dtype)[voxels].reshape(reference.array.shape)
    return Segmentation(array, reference.geometry, labels, reference.findings)


def _read(channel: Channel) -> Volume:
    return formats.read(channel.path, frame=channel.frame)


def _named(case: Case, read: Any) -> Any:
    try:
        return read()
    except MedsegError as error:
        raise type(error)(f"Case {case.name}: {error}") from error


def _from_dataset_json(root: Path) -> Iterator[Case]:
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error.__class__.__name__}); correct the file.") from None
    try:
        if "training" in content:
            return iter([_decathlon_case(root, entry, len(content["modality"])) for entry in content["training"]])
        if "dataset" in content:
            return iter([_listed_case(root, name, entry) for name, entry in content["dataset"].items()])
        return iter(list(_nnunet_cases(root, content["file_ending"], len(content["channel_names"]))))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: {error.__class__.__name__} {error}; a Decathlon file has modality and training, "
            "an nnU-Net file has channel_names and file_ending."
        ) from None


def _decathlon_case(root: Path, entry: Mapping[str, str], modalities: int) -> Case:
    image = root / entry["image"]
    name = _stem(image)
    if not image.exists() and (split_image := _split_channels(image, modalities))[0].path.exists():
        channels = (
            split_image  # as the first nnU-Net wrote Decathlon lists: the list says CASE, the files are CASE_0000
        )
    elif modalities > 1:
        channels = tuple(Channel(image, frame) for frame in range(modalities))
    else:
        channels = (Channel(image),)
    return Case(name, channels, root / entry["label"])


def _listed_case(root: Path, name: str, entry: Mapping[str, Any]) -> Case:
    return Case(name, tuple(Channel(root / image) for image in entry["images"]), root / entry["label"])


def _nnunet_cases(root: Path, ending: str, modalities: int) -> Iterator[Case]:
    for label in sorted((root / "labelsTr").glob(f"[!.]*{ending}")):
        yield Case(label.name.removesuffix(ending), _split_channels(root / "imagesTr" / label.name, modalities), label)


def _split_channels(image: Path, modalities: int) -> tuple[Channel, ...]:
    ending = image.name.removeprefix(_stem(image))
    return tuple(Channel(image.with_name(f"{_stem(image)}_{i:04d}{ending}")) for i in range(modalities))


def _from_csv(path: Path, columns: Mapping[Any, str]) -> Iterator[Case]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := sorted({"image", "label"} - {*(rows.fieldnames or ()), *columns}):
            raise ConfigError(
                f"{path}: column {missing[0]!r} is missing; the columns are image, label and, if wanted, case and "
                "group, or data.columns tells what they are made of."
            )
        for row in rows:
            images, label, name, group = (
                _entry(path, row, columns, key) for key in ("image", "label", "case", "group")
            )
            if not images or not label:
                raise ConfigError(f"{path}: line {rows.line_num} names no image or no label; fill in both.")
            channels = tuple(Channel(path.parent / image.strip()) for image in images.split(";") if image.strip())
            yield Case(name or _stem(channels[0].path), channels, path.parent / label, group or None)


def _entry(path: Path, row: Mapping[str, str | None], columns: Mapping[Any, str], key: str) -> str:
    try:
        return columns[key].format_map(row) if key in columns else (row.get(key) or "").strip()
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{path}: data.columns.{key} is {columns[key]!r}, which ({', '.join(row)}) do not fill in "
            f"({error.__class__.__name__} {error})."
        ) from None


def _require_files(root: Path, cases: Sequence[Case]) -> None:
    files = [(case, path) for case in cases for path in dict.fromkeys([*(c.path for c in case.channels), case.label])]
    if missing := [(case, path) for case, path in files if not path.exists()]:
        case, path = missing[0]
        raise InputError(
            f"{root}: {len(missing)} of {len(files)} files are missing, first {path} of case {case.name}; "
            "restore them or take their cases off the list."
        )


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def _listed(values: Sequence[int], most: int = 10) -> str:
    return ", ".join(str(value) for value in values[:most]) + (" ..." if len(values) > most else "")
