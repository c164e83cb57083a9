"""What a user points at, as the list of scans to segment."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats import read, scan
from medseg.formats.files import expand
from medseg.ledger import own_folder, read_record
from medseg.study import DEFAULT_OPTIONS, ScanOptions, Series
from medseg.volume import Volume

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz, ...
_ENDING = re.compile(r"(\.[A-Za-z]\w{0,5})?(\.gz)?$")


@dataclass(frozen=True)
class Input:
    """One scan to segment.

    Attributes:
        name: Its file's or folder's name without ending; unlike every other input's.
        series: One for each file that holds channels of the scan; most scans have one.
        beside: The folder in which a result lies beside the scan.
        problem: Why it cannot be read; None for a sound one.
    """

    name: str
    series: tuple[Series, ...]
    beside: Path
    problem: MedsegError | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the scan."""
        return tuple(path for series in self.series for path in series.paths)


def find_inputs(
    patterns: Sequence[str], *, channels: int = 1, apart: bool = True, options: ScanOptions = DEFAULT_OPTIONS
) -> tuple[Input, ...]:
    """List the scans that files, folders and globs name.

    A folder gives every scan in it and below, but no mask that medseg wrote, and no localizer beside another scan.
    What looks like a scan but cannot be read is listed too, with its problem, so that nothing is dropped in silence.

    Args:
        patterns: Files, folders, globs or archives; what a glob matches is looked at together.
        channels: What the model takes; above 1, files CASE_0000, CASE_0001, ... become one scan.
        apart: Whether no two scans shall bear one name; else only those of one folder differ, and a scan that is added
            elsewhere changes no other's name.
        options: How doubtful scans are dealt with.

    Raises:
        InputError: If a pattern names nothing, or nothing that could be a scan.
    """
    found: dict[tuple[Path, ...], Input] = {}
    for pattern in patterns:
        inputs = _inputs_at(pattern, options)
        if not inputs:
            raise InputError(f"{pattern}: holds no scan that can be read; `medseg inspect` tells what was found.")
        # A file that several patterns name is one scan.
        found.update({tuple(path.resolve() for path in one.paths): one for one in inputs})
    inputs = _grouped(list(found.values()), channels) if channels > 1 else list(found.values())
    if apart:
        return tuple(_distinct(inputs))
    folders: dict[Path, list[Input]] = {}
    for one in inputs:
        folders.setdefault(one.beside, []).append(one)
    return tuple(one for members in folders.values() for one in _distinct(members))


def read_input(scan_: Input, *, channels: int, frame: int | None) -> Volume:
    """Read a scan: one file, one file for each channel, or one volume of a 4D file for each channel.

    Raises:
        InputError: If a file is damaged, or holds several volumes of which none was chosen.
        GeometryError: If the channels' grids differ.
    """
    if scan_.problem is not None:
        raise scan_.problem
    first = scan_.series[0]
    if len(scan_.series) == 1 and first.frames == channels > 1 and frame is None:
        volumes = [read(first, frame=number) for number in range(channels)]
    else:
        volumes = [read(series, frame=frame) for series in scan_.series]
    if len(volumes) == 1:
        return volumes[0]
    for series, volume in zip(scan_.series, volumes, strict=False):
        if not volume.geometry.matches(volumes[0].geometry):
            raise GeometryError(
                f"{series.paths[0]}: grid of {volume.geometry}, but the first channel has {volumes[0].geometry};"
                " resample the channels to one grid."
            )
    findings = tuple(dict.fromkeys(finding for volume in volumes for finding in volume.findings))
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array, volumes[0].geometry, volumes[0].modality, findings)


def _inputs_at(pattern: str, options: ScanOptions) -> list[Input]:
    paths = expand(pattern)
    is_glob = paths != [Path(pattern)]
    paths = [path for path in paths if not is_glob or not _is_result(path)]
    study = scan(paths, options=options)
    named = not is_glob and not paths[0].is_dir()  # a mask that a user names is segmented, one in a folder passed over
    if not study.series and named:
        reason = study.skipped[0][1] if study.skipped else "not a scan"
        series = Series((paths[0],), "unknown", readable=False)
        return [Input(_stem(paths[0]), (series,), paths[0].parent, InputError(f"{paths[0]}: {reason}."))]
    return [_input(series) for series in study.taken if named or not _is_result(series.paths[0])]


def _input(series: Series) -> Input:
    first = series.paths[0]
    folder = _absolute(first.parent)
    name, beside = (folder.name, folder.parent) if _is_folder(series) else (_stem(first), first.parent)
    if series.container is not None:  # the files lie in a temporary folder
        beside = series.container.parent
    return Input(name, (series,), beside, None if series.readable else _problem(series))


def _problem(series: Series) -> MedsegError:
    reasons = "; ".join(finding.message for finding in series.findings) or "cannot be read."
    first = series.paths[0]
    kind = GeometryError if any(finding.code == "geometry-refused" for finding in series.findings) else InputError
    return kind(reasons if str(first) in reasons else f"{first}: {reasons}")


def _is_folder(series: Series) -> bool:
    """Whether the series is many files, so that the folder names it (a header and its voxels are one name)."""
    return len({_stem(path) for path in series.paths}) > 1


def _is_result(path: Path) -> bool:
    """Whether a file is a mask that medseg wrote, by the record that lists it."""
    if not path.name.endswith(".nii.gz"):
        return False
    for folder in (path.parent, own_folder(path)):
        record = read_record(folder)
        names = [output.name for output in record.outputs] if record else []
        if path.resolve() in {(folder / name).resolve() for name in names}:
            return True
    return False


def _grouped(inputs: list[Input], channels: int) -> list[Input]:
    """Files CASE_0000, CASE_0001, ... of one folder become one scan."""
    groups: dict[tuple[Path, str], dict[int, Input]] = {}
    others = []
    for one in inputs:
        match = _CHANNEL.fullmatch(one.name)
        if match and len(one.series) == 1 and one.series[0].frames == 1:
            groups.setdefault((one.beside, match[1]), {})[int(match[2])] = one
        else:
            others.append(one)
    for (beside, name), members in groups.items():
        series = tuple(members[number].series[0] for number in sorted(members))
        missing = [f"{name}_{number:04d}" for number in range(channels) if number not in members]
        problems = [member.problem for member in members.values() if member.problem]
        if missing:
            what = f"channel file {missing[0]} is missing; the model takes {channels} channels."
            problems.append(InputError(f"{beside / name}: {what}"))
        others.append(Input(name, series, beside, problems[0] if problems else None))
    return others


def _distinct(inputs: list[Input]) -> list[Input]:
    """Names made unique: by the folder's name where files of several folders bear one name, then by a number."""
    count = Counter(one.name for one in inputs)
    unique: dict[str, Input] = {}
    for one in inputs:
        folder = _absolute(one.beside).name
        base = f"{folder}_{one.name}" if count[one.name] > 1 and folder else one.name
        names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in unique)
        unique[name] = replace(one, name=name)
    return list(unique.values())


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() follows links, to a folder of another name


def _stem(path: Path) -> str:
    return _ENDING.sub("", path.name) or path.name
