"""Labels from files and to files, among them formats that hold labels alone and refer to the scan that has the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg import __version__
from medseg.errors import ConfigError, InputError
from medseg.formats.base import Algorithm, Onto, shown
from medseg.formats.scanning import FORMATS, NAMED, claim, expanded, find, format_of, only
from medseg.geometry import Geometry
from medseg.study import DEFAULT_OPTIONS, Finding, Series, SourcePlane
from medseg.volume import Segmentation

OUTPUT_TYPES = {output: writer for format_ in FORMATS for output, writer in format_.outputs.items()}


def needs_grid(path: Path | str) -> bool:
    """Whether the labels in a path are stored without a grid, or on a part of one (RTSTRUCT, SEG).

    Raises:
        InputError: If the path does not exist, or holds several such files.
    """
    return _labels_alone(path) is not None


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
    alone = _labels_alone(path)
    series, others = (alone, ()) if alone else only(path, DEFAULT_OPTIONS)
    format_ = format_of(series)
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
    source: Sequence[Path | SourcePlane],
    algorithm: Algorithm | None = None,
) -> tuple[Finding, ...]:
    """Write labels as a DICOM object that refers to the series which was segmented.

    The file is read back before it appears; centroid, box and volume of every label have to be those in memory.

    Args:
        segmentation: Labels on any grid; each voxel of a source slice gets the nearest one.
        path: The file, which appears whole or not at all.
        output_type: One of `OUTPUT_TYPES`: "dicom-seg" (LABELMAP), "dicom-seg-binary" or "dicom-rtstruct".
        source: Files of the series, or planes of the volume (`Volume.sources`) where there are several in it.
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


def _labels_alone(path: Path | str) -> Series | None:
    """The one file in a path that holds labels alone, which has the precedence over scans beside it."""
    files = dict.fromkeys(file for one in expanded(path) for file in find(one).files)
    claims = [(file, claim(file, [])) for file in files]
    found = [(file, format_) for file, format_ in claims if format_ is not None and format_.read_onto is not None]
    if len(found) > 1:
        names = "; ".join(f"{shown(file.name)} ({format_.name})" for file, format_ in found[:NAMED])
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise InputError(f"{shown(path)}: {len(found)} label files found, give one of them: {names}{more}.")
    return Series((found[0][0],), found[0][1].name) if found else None


def _subset(segmentation: Segmentation, names: Sequence[str], path: Path) -> Segmentation:
    if segmentation.labels is None:
        raise ConfigError(f"{shown(path)}: its labels have no names, so none can be chosen by name.")
    labels = segmentation.labels.subset(names)
    array = np.where(np.isin(segmentation.array, labels.indices), segmentation.array, 0)
    return replace(segmentation, array=array, labels=labels)
