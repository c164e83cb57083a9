"""Files to volumes and segmentations to files. One format a file; `FORMATS` is the list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg import __version__
from medseg.errors import ConfigError, InputError
from medseg.formats.base import Algorithm, Format, Onto, by, shown
from medseg.formats.dicom import DICOM
from medseg.formats.dicom_seg import DICOM_SEG, RESAMPLED
from medseg.formats.files import Skipped, head, walk
from medseg.formats.nifti import NIFTI
from medseg.formats.rtstruct import DICOM_RTSTRUCT
from medseg.geometry import Geometry
from medseg.study import Finding, Series, Study
from medseg.volume import Segmentation, Volume

__all__ = [
    "FORMATS",
    "OUTPUT_TYPES",
    "RESAMPLED",
    "Algorithm",
    "Format",
    "candidate",
    "needs_grid",
    "read",
    "read_segmentation",
    "scan",
    "write",
    "write_onto_source",
]

FORMATS: tuple[Format, ...] = (NIFTI, DICOM_SEG, DICOM_RTSTRUCT, DICOM)  # the first that recognises a file has it

OUTPUT_TYPES = {output: writer for format_ in FORMATS for output, writer in format_.outputs.items()}

_NAMED = 5  # candidates or skipped files that a message names before it only counts


def scan(path: Path | str) -> Study:
    """Find what a file or folder holds, without reading voxels.

    Args:
        path: A file, or a folder that is searched with all below it.

    Returns:
        The candidates, in the order of their first file, and every other file with the reason; files that hold labels
        alone are among the others.

    Raises:
        InputError: If the path does not exist or cannot be opened.
    """
    studies, skipped = _studies(Path(path))
    series: list[Series] = []
    for format_, study in studies:
        if format_.read_onto is None:
            series += study.series
        else:
            reason = f"holds labels, not a scan ({format_.name}); `medseg convert` and `evaluate` read it"
            skipped += [(file, reason) for one in study.series for file in one.paths]
    return Study(tuple(sorted(series, key=lambda one: one.paths[0])), tuple(sorted(skipped)))


def candidate(path: Path | str) -> Series:
    """The one scan that a path holds, whether or not it can be read.

    Raises:
        InputError: If there is none or more than one.
    """
    return _only(path)[0]


def read(path_or_series: Path | str | Series, *, frame: int | None = None) -> Volume:
    """Read a scan.

    Args:
        path_or_series: A file or folder that holds one scan, or one of the candidates that `scan` found.
        frame: Which volume to take, from 0, where a file holds several (time, echo, ...).

    Returns:
        Voxels (C, I, J, K) on the scan's own grid; integers keep their type unless the file scales them (float32).

    Raises:
        InputError: If there is no scan or more than one, or it is damaged, empty or of a kind that is not read.
        GeometryError: If the file does not tell, or contradicts itself about, where the voxels lie.
        ResourceError: If there is not enough memory.
    """
    series, others = _only(path_or_series)
    volume = _format(series).read(series, frame)
    return Volume(volume.array, volume.geometry, volume.modality, (*volume.findings, *others))


def needs_grid(path: Path | str) -> bool:
    """Whether the labels in a path are stored without a grid, or on a part of one (RTSTRUCT, SEG).

    Raises:
        InputError: If the path does not exist, or holds several such files.
    """
    return _labels_alone(Path(path)) is not None


def read_segmentation(
    path: Path | str,
    *,
    onto: Geometry | None = None,
    source: Sequence[Path] = (),
    names: Sequence[str] = (),
) -> Segmentation:
    """Read labels (I, J, K); whole numbers of any type are labels, and their names come from the file if it has them.

    Args:
        path: A file, or a folder that holds one; a DICOM SEG or RTSTRUCT is found among the images beside it.
        onto: The grid for labels that are stored without one (RTSTRUCT) or on a part of one (SEG); other formats
            keep their own.
        source: Files of the series that a SEG or RTSTRUCT was made from, to compare with what it refers to.
        names: The labels to read; all where none is named.

    Raises:
        InputError: If there is no label file or more than one, or its values are not labels.
        GeometryError: If the file does not tell where the voxels lie, or they do not lie on the grid.
        ConfigError: If a name is not in the file.
        ResourceError: If there is not enough memory.
    """
    alone = _labels_alone(Path(path))
    series, others = (alone, ()) if alone else _only(path)
    format_ = _format(series)
    if format_.read_onto is not None:
        return format_.read_onto(series, Onto(onto, tuple(source), tuple(names)))
    if format_.read_segmentation is None:
        raise InputError(f"{shown(Path(path))}: {format_.name} holds intensities, not labels; give a label file.")
    segmentation = format_.read_segmentation(series)
    segmentation = replace(segmentation, findings=(*segmentation.findings, *others))
    return _subset(segmentation, names, Path(path)) if names else segmentation


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


def write_onto_source(
    segmentation: Segmentation,
    path: Path | str,
    output_type: str,
    source: Sequence[Path],
    algorithm: Algorithm | None = None,
) -> tuple[Finding, ...]:
    """Write labels as a DICOM object that refers to the series which was segmented.

    The file is read back before it appears; centroid, box and volume of every label have to be those in memory.

    Args:
        segmentation: Labels on any grid; each voxel of a source slice gets the nearest one.
        path: The file, which appears whole or not at all.
        output_type: One of `OUTPUT_TYPES`: "dicom-seg" (LABELMAP), "dicom-seg-binary" or "dicom-rtstruct".
        source: Files of the series.
        algorithm: What made the segmentation; this package where it is not given.

    Returns:
        What is doubtful, such as labels that do not occur and so are not in the file.

    Raises:
        ConfigError: If there is no such output type, or it does not hold so many labels.
        InputError: If the source cannot be read or referred to.
        GeometryError: If the source's slices have no common geometry, or the segmentation is not on them.
        VerificationError: If the file does not hold the labels.
        ResourceError: If the disk is full or the folder cannot be written.
    """
    if output_type not in OUTPUT_TYPES:
        raise ConfigError(f"Output type {output_type!r} is not available; available: {', '.join(OUTPUT_TYPES)}.")
    algorithm = algorithm or Algorithm("medseg", __version__)
    return OUTPUT_TYPES[output_type](segmentation, Path(path), source, algorithm)


def _studies(path: Path) -> tuple[list[tuple[Format, Study]], Skipped]:
    """What each format finds in the files that it recognises, and the files that none takes."""
    files, skipped = walk(path)
    claimed: dict[str, list[Path]] = {format_.name: [] for format_ in FORMATS}
    for file in files:
        claim = _claim(file, skipped)
        if claim is not None:
            claimed[claim.name].append(file)
    studies = [(format_, format_.scan(claimed[format_.name])) for format_ in FORMATS if claimed[format_.name]]
    return studies, skipped + [pair for _, study in studies for pair in study.skipped]


def _labels_alone(path: Path) -> Series | None:
    """The one file in a path that holds labels alone, which has the precedence over scans beside it."""
    files, skipped = walk(path)
    claims = [(file, _claim(file, skipped)) for file in files]
    found = [(file, claim) for file, claim in claims if claim is not None and claim.read_onto is not None]
    if len(found) > 1:
        names = "; ".join(f"{shown(file.name)} ({claim.name})" for file, claim in found[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise InputError(f"{shown(path)}: {len(found)} label files found, give one of them: {names}{more}.")
    return Series((found[0][0],), found[0][1].name) if found else None


def _subset(segmentation: Segmentation, names: Sequence[str], path: Path) -> Segmentation:
    if segmentation.labels is None:
        raise ConfigError(f"{shown(path)}: its labels have no names, so none can be chosen by name.")
    labels = segmentation.labels.subset(names)
    array = np.where(np.isin(segmentation.array, labels.indices), segmentation.array, 0)
    return replace(segmentation, array=array, labels=labels)


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


def _only(path_or_series: Path | str | Series) -> tuple[Series, tuple[Finding, ...]]:
    """The one candidate, and a finding about others that cannot be read."""
    if isinstance(path_or_series, Series):
        return path_or_series, ()
    path = Path(path_or_series)
    study = scan(path)
    candidates = study.readable or study.series
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
    reasons = "; ".join(_reason(one) for one in others[:_NAMED])
    return candidates[0], (Finding("others-not-read", f"{len(others)} other candidate(s) not read: {reasons}."),)


def _nothing(path: Path, study: Study) -> str:
    if not study.skipped:
        return "the folder holds no files; give a scan."
    if len(study.skipped) == 1 and study.skipped[0][0] == path:
        return f"{study.skipped[0][1]}; give a scan, such as .nii.gz or a DICOM folder."
    reasons = "; ".join(f"{shown(file.relative_to(path))}: {reason}" for file, reason in study.skipped[:_NAMED])
    return f"none of {len(study.skipped)} file(s) is a scan that can be read ({reasons}); give another folder."


def _candidate(series: Series, path: Path) -> str:
    first = series.paths[0]
    name = shown(first.relative_to(path) if first.is_relative_to(path) and first != path else first)
    about = [
        series.modality or "",
        f"{len(series.paths)} files" if len(series.paths) > 1 else "",
        by(series.shape) if series.shape else "",
        "" if series.readable else _reason(series),
    ]
    about = [part for part in about if part]
    return f"{name} ({', '.join(about)})" if about else name


def _reason(refused: Series) -> str:
    return refused.findings[0].message.rstrip(".")
