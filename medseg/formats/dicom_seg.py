"""DICOM Segmentation: labels alone, on slices of the series that was segmented (BINARY, FRACTIONAL and LABELMAP).

A label without a code is written as SNOMED CT 85756007 "Tissue"; the category is 123037004 "Anatomical Structure", or
49755003 "Morphologically Abnormal Structure" for codes such as that of a neoplasm.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Never

from medseg.errors import GeometryError, InputError
from medseg.formats.base import RESAMPLED, Format, Onto, each_for_itself, shown
from medseg.formats.dicom_derived import tie
from medseg.formats.dicom_formats import is_seg
from medseg.formats.dicom_limits import bounded
from medseg.formats.dicom_seg_read import read_frames, read_outline
from medseg.formats.dicom_seg_write import write_binary, write_labelmap
from medseg.formats.dicom_source import read_source
from medseg.formats.planes import aligned, spread
from medseg.study import Finding, Series
from medseg.volume import Segmentation

_NAME = "dicom-seg"


def read(series: Series, frame: int | None) -> Never:
    """Refuse: there are no intensities."""
    raise InputError(f"{shown(series.paths[0])}: a DICOM segmentation holds labels, not a scan; give the series.")


def read_onto(series: Series, onto: Onto) -> Segmentation:
    """Read labels onto a grid, or onto their own, which reaches only as far as there are frames."""
    path = series.paths[0]
    frames = bounded(path, partial(read_frames, path, onto.names))
    source = read_source(onto.source) if onto.source else None
    findings = frames.findings + tie(path, source, frames.outline.instances, frames.outline.frame_of_reference)
    if onto.geometry is not None:
        if not aligned(frames.planes, onto.geometry):
            text = "The segmentation's voxels are not those of the grid; each voxel got the nearest one's label."
            findings = (*findings, Finding(RESAMPLED, text))
        array = spread(frames.labels, frames.planes, onto.geometry)
        if frames.labels.any() and not array.any():
            raise GeometryError(
                f"{shown(path)}: the segmentation and the grid ({onto.geometry}) have no labelled voxel in common;"
                " give the series that it was made from."
            )
        return Segmentation(array, onto.geometry, frames.names, findings)
    try:
        geometry, places = frames.planes.grid()
    except GeometryError as error:
        raise GeometryError(f"{shown(path)}: {error}") from None
    array = spread(frames.labels, frames.planes, geometry) if len(places) < geometry.shape[2] else frames.labels.T
    return Segmentation(array, geometry, frames.names, findings)


def read_segmentation(series: Series) -> Segmentation:
    """Read labels onto their own grid."""
    return read_onto(series, Onto())


def _series(path: Path) -> Series:
    planes = bounded(path, partial(read_outline, path)).planes
    try:
        geometry = planes.grid()[0]
    except GeometryError:  # without a grid of its own it can still be put onto its source's
        return Series((path,), _NAME, modality="SEG")
    return Series((path,), _NAME, shape=geometry.shape, spacing_mm=geometry.spacing_mm, modality="SEG")


FORMAT = Format(
    _NAME,
    is_seg,
    each_for_itself(_NAME, _series),
    read,
    read_segmentation,
    read_onto=read_onto,
    outputs={"dicom-seg": write_labelmap, "dicom-seg-binary": write_binary},
)
