"""Files to volumes and segmentations to files. One format a file; `FORMATS` is the list of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ConfigError, InputError
from medseg.formats.archives import is_archive, unpack
from medseg.formats.base import Format, by, shown
from medseg.formats.dicom import DICOM
from medseg.formats.dicom_dir import indexed_files, is_index
from medseg.formats.files import Skipped, expand, head, walk
from medseg.formats.itk import ITK
from medseg.formats.nifti import NIFTI
from medseg.formats.raster import RASTER
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, Study
from medseg.volume import Segmentation, Volume

__all__ = ["FORMATS", "Format", "read", "read_segmentation", "scan", "write"]

FORMATS: tuple[Format, ...] = (NIFTI, DICOM, ITK, RASTER)  # the first that recognises a file has it

_NAMED = 5  # candidates or skipped files that a message names before it only counts


def scan(
    path: Path | str | Sequence[Path | str],
    *,
    options: ScanOptions = DEFAULT_OPTIONS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Find what a path holds, without reading voxels.

    Args:
        path: A file, a folder that is searched with all below it, a glob, a zip or tar archive, a DICOMDIR; or several.
        options: How doubtful scans are dealt with.
        progress: Called with (files done, files in all).

    Returns:
        The candidates, in the order of their first file, and every other file with the reason.

    Raises:
        InputError: If a path does not exist, cannot be opened, or is an archive beyond the caps.
    """
    found = [_find(one) for one in _expanded(path)]
    files = list(dict.fromkeys(file for part in found for file in part.files))
    skipped = [pair for part in found for pair in part.skipped]
    claimed: dict[str, list[Path]] = {format_.name: [] for format_ in FORMATS}
    for file in files:
        claim = _claim(file, skipped)
        if claim is not None:
            claimed[claim.name].append(file)
    counter = itertools.count(1)
    studies = [
        format_.scan(claimed[format_.name], options, lambda: progress(next(counter), len(files)))
        for format_ in FORMATS
        if claimed[format_.name]
    ]
    archives = {part.folder: part.archive for part in found if part.folder}
    series = [_contained(one, archives) for study in studies for one in study.series]
    skipped += [pair for study in studies for pair in study.skipped]
    return Study(tuple(sorted(series, key=lambda one: one.paths[0])), tuple(sorted(skipped)))


def read(
    path_or_series: Path | str | Series, *, frame: int | None = None, options: ScanOptions = DEFAULT_OPTIONS
) -> Volume:
    """Read a scan.

    Args:
        path_or_series: What `scan` takes and holds one scan, or one of the candidates that `scan` found.
        frame: Which volume to take, from 0, where a file holds several (time, echo, ...).
        options: How doubtful scans are dealt with; a candidate brings those that it was found with.

    Returns:
        Voxels (C, I, J, K) on the scan's own grid; integers keep their type unless the file scales them (float32).

    Raises:
        InputError: If there is no scan or more than one, or it is damaged, empty or of a kind that is not read.
        GeometryError: If the file does not tell, or contradicts itself about, where the voxels lie.
        ResourceError: If there is not enough memory.
    """
    series, others = _only(path_or_series, options)
    volume = _format(series).read(series, frame)
    return replace(volume, findings=(*volume.findings, *others))


def read_segmentation(path: Path | str) -> Segmentation:
    """Read labels (I, J, K); whole numbers of any type are labels, and their names come from the file if it has them.

    Raises:
        InputError: If there is no label file or more than one, or its values are not labels.
        GeometryError: If the file does not tell where the voxels lie.
        ResourceError: If there is not enough memory.
    """
    series, others = _only(path, DEFAULT_OPTIONS)
    format_ = _format(series)
    if format_.read_segmentation is None:
        raise InputError(f"{shown(Path(path))}: {format_.name} holds intensities, not labels; give a label file.")
    segmentation = format_.read_segmentation(series)
    findings = (*segmentation.findings, *others)
    return Segmentation(segmentation.array, segmentation.geometry, segmentation.labels, findings)


def write(segmentation: Segmentation, path: Path | str) -> None:
    """Write labels; the file appears whole or not at all.

    Args:
        segmentation: Labels of any integer type; the file gets the smallest that holds them.
        path: The ending chooses the format.

    Raises:
        ConfigError: If no format writes files with this ending.
        InputError: If a label is negative.
        ResourceError: If the disk is full or the folder cannot be written.
    """
    path = Path(path)
    for format_ in FORMATS:
        if format_.write is not None and path.name.lower().endswith(format_.suffixes):
            format_.write(segmentation, path)
            return
    endings = ", ".join(suffix for format_ in FORMATS for suffix in format_.suffixes)
    raise ConfigError(f"{shown(path)}: no format is written under this ending; choose one of {endings}.")


@dataclass(frozen=True)
class _Found:
    files: list[Path]
    skipped: Skipped
    folder: Path | None = None  # where the files of an archive lie
    archive: Path | None = None


def _expanded(path: Path | str | Sequence[Path | str]) -> list[Path]:
    paths = [path] if isinstance(path, Path | str) else path
    return [one for pattern in paths for one in expand(str(pattern))]


def _find(path: Path) -> _Found:
    files, skipped = walk(path)
    if files == [path]:
        try:
            start = head(path)
        except OSError:  # told when the file is claimed
            start = b""
        if is_archive(path, start):
            unpacked = unpack(path)
            files, skipped = walk(unpacked.folder)
            return _Found(files, [*unpacked.skipped, *skipped], unpacked.folder, path)
        if is_index(path, start):
            files, skipped = indexed_files(path)
    return _Found(files, skipped)


def _contained(series: Series, archives: dict[Path, Path | None]) -> Series:
    for folder, archive in archives.items():
        if series.paths[0].is_relative_to(folder):
            return replace(series, container=archive)
    return series


def _claim(file: Path, skipped: Skipped) -> Format | None:
    try:
        start = head(file)
    except OSError as error:
        skipped.append((file, f"cannot be read ({error.strerror})"))
        return None
    for format_ in FORMATS:
        if format_.recognises(file, start):
            return format_
    skipped.append((file, "an empty file" if not start else "not an image in a format that is known"))
    return None


def _format(series: Series) -> Format:
    return next(format_ for format_ in FORMATS if format_.name == series.format)


def _only(path_or_series: Path | str | Series, options: ScanOptions) -> tuple[Series, tuple[Finding, ...]]:
    """The one candidate, and a finding about others that are not read."""
    if isinstance(path_or_series, Series):
        return path_or_series, ()
    path = Path(path_or_series)
    study = scan(path, options=options)
    candidates = [one for one in study.readable if not study.left_out(one)] or study.series
    if not candidates:
        raise InputError(f"{shown(path)}: {_nothing(path, study)}")
    if len(candidates) > 1:
        found = "scans found" if study.readable else "scans found, none of which can be read"
        names = "; ".join(_candidate(one, path) for one in candidates[:_NAMED])
        more = f"; and {len(candidates) - _NAMED} more" if len(candidates) > _NAMED else ""
        raise InputError(f"{shown(path)}: {len(candidates)} {found}, give one of them: {names}{more}.")
    others = [one for one in study.series if one is not candidates[0]]
    if not others:
        return candidates[0], ()
    reasons = "; ".join(study.left_out(one) or _reason(one) for one in others[:_NAMED])
    return candidates[0], (Finding("others-not-read", f"{len(others)} other candidate(s) not read: {reasons}."),)


def _nothing(path: Path, study: Study) -> str:
    if not study.skipped:
        return "the folder holds no files; give a scan."
    if len(study.skipped) == 1 and study.skipped[0][0] == path:
        return f"{study.skipped[0][1]}; give a scan, such as .nii.gz or a DICOM folder."
    reasons = "; ".join(f"{shown(_under(file, path))}: {reason}" for file, reason in study.skipped[:_NAMED])
    return f"none of {len(study.skipped)} file(s) is a scan that can be read ({reasons}); give another folder."


def _candidate(series: Series, path: Path) -> str:
    first = series.paths[0]
    name = shown(first if first == path else _under(first, path))
    about = [
        series.modality or "",
        f"{len(series.paths)} files" if len(series.paths) > 1 else "",
        by(series.shape) if series.shape else "",
        "" if series.readable else _reason(series),
    ]
    about = [part for part in about if part]
    return f"{name} ({', '.join(about)})" if about else name


def _under(file: Path, path: Path) -> Path:
    return file.relative_to(path) if file.is_relative_to(path) else file


def _reason(refused: Series) -> str:
    return refused.findings[0].message.rstrip(".")
