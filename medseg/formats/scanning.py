"""Which scans a path holds, and the one of them that was meant; `FORMATS` is the list of formats."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import InputError
from medseg.formats.archives import is_archive, unpack
from medseg.formats.base import Format, by, shown
from medseg.formats.dicom_formats import DICOM, DICOM_RTSTRUCT, DICOM_SEG, is_index
from medseg.formats.files import Skipped, expand, head, walk
from medseg.formats.itk import ITK
from medseg.formats.nifti import NIFTI
from medseg.formats.raster import RASTER
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, Study

# The first that recognises a file has it.
FORMATS: tuple[Format, ...] = (NIFTI, DICOM_SEG, DICOM_RTSTRUCT, DICOM, ITK, RASTER)

NAMED = 5  # candidates or skipped files that a message names before it only counts


@dataclass(frozen=True)
class Found:
    """The files of a path, and what was passed over, with the reason.

    Attributes:
        files: In the order in which they were found.
        skipped: The others.
        folder: Where the files of an archive lie.
        archive: The archive.
    """

    files: list[Path]
    skipped: Skipped
    folder: Path | None = None
    archive: Path | None = None


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
        The candidates, in the order of their first file, and every other file with the reason; files that hold labels
        alone are among the others.

    Raises:
        InputError: If a path does not exist, cannot be opened, or is an archive beyond the caps.
    """
    found = [find(one) for one in expanded(path)]
    files = list(dict.fromkeys(file for part in found for file in part.files))
    skipped = [pair for part in found for pair in part.skipped]
    claimed: dict[str, list[Path]] = {format_.name: [] for format_ in FORMATS}
    for file in files:
        format_ = claim(file, skipped)
        if format_ is not None:
            claimed[format_.name].append(file)
    counter = itertools.count(1)
    studies = [
        (format_, format_.scan(claimed[format_.name], options, lambda: progress(next(counter), len(files))))
        for format_ in FORMATS
        if claimed[format_.name]
    ]
    archives = {part.folder: part.archive for part in found if part.folder}
    series: list[Series] = []
    for format_, study in studies:
        skipped += study.skipped
        if format_.read_onto is None:
            series += [_contained(one, archives) for one in study.series]
        else:
            reason = f"holds labels, not a scan ({format_.name}); `medseg convert` and `evaluate` read it"
            skipped += [(file, reason) for one in study.series for file in one.paths]
    return Study(tuple(sorted(series, key=lambda one: one.paths[0])), tuple(sorted(skipped)))


def candidate(path: Path | str, options: ScanOptions = DEFAULT_OPTIONS) -> Series:
    """The one scan that a path holds, whether or not it can be read.

    Raises:
        InputError: If there is none or more than one.
    """
    return only(path, options)[0]


def only(path_or_series: Path | str | Series, options: ScanOptions) -> tuple[Series, tuple[Finding, ...]]:
    """The one candidate, and a finding about others that are not read.

    Raises:
        InputError: If there is none or more than one.
    """
    if isinstance(path_or_series, Series):
        return path_or_series, ()
    path = Path(path_or_series)
    study = scan(path, options=options)
    candidates = [one for one in study.readable if not study.left_out(one)] or study.series
    if not candidates:
        raise InputError(f"{shown(path)}: {_nothing(path, study)}")
    if len(candidates) > 1:
        found = "scans found" if study.readable else "scans found, none of which can be read"
        names = "; ".join(_candidate(one, path) for one in candidates[:NAMED])
        more = f"; and {len(candidates) - NAMED} more" if len(candidates) > NAMED else ""
        raise InputError(f"{shown(path)}: {len(candidates)} {found}, give one of them: {names}{more}.")
    others = [one for one in study.series if one is not candidates[0]]
    if not others:
        return candidates[0], ()
    reasons = "; ".join(study.left_out(one) or _reason(one) for one in others[:NAMED])
    return candidates[0], (Finding("others-not-read", f"{len(others)} other candidate(s) not read: {reasons}."),)


def expanded(path: Path | str | Sequence[Path | str]) -> list[Path]:
    """The paths that files, folders and globs name."""
    paths = [path] if isinstance(path, Path | str) else path
    return [one for pattern in paths for one in expand(str(pattern))]


def find(path: Path) -> Found:
    """The files of a path: of a folder, an archive, or a DICOMDIR."""
    files, skipped = walk(path)
    if files == [path]:
        try:
            start = head(path)
        except OSError:  # told when the file is claimed
            start = b""
        if is_archive(path, start):
            unpacked = unpack(path)
            files, skipped = walk(unpacked.folder)
            return Found(files, [*unpacked.skipped, *skipped], unpacked.folder, path)
        if is_index(path, start):
            from medseg.formats.dicom_dir import indexed_files  # noqa: PLC0415 - loads pydicom

            files, skipped = indexed_files(path)
    return Found(files, skipped)


def claim(file: Path, skipped: Skipped) -> Format | None:
    """The format that recognises a file; None if none does, and the file is added to `skipped`."""
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


def format_of(series: Series) -> Format:
    """The format that reads a candidate."""
    return next(format_ for format_ in FORMATS if format_.name == series.format)


def _contained(series: Series, archives: dict[Path, Path | None]) -> Series:
    for folder, archive in archives.items():
        if series.paths[0].is_relative_to(folder):
            return replace(series, container=archive)
    return series


def _nothing(path: Path, study: Study) -> str:
    if not study.skipped:
        return "the folder holds no files; give a scan."
    if len(study.skipped) == 1 and study.skipped[0][0] == path:
        return f"{study.skipped[0][1]}; give a scan, such as .nii.gz or a DICOM folder."
    reasons = "; ".join(f"{shown(_under(file, path))}: {reason}" for file, reason in study.skipped[:NAMED])
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
