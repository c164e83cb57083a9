"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), read by ITK once their headers have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats.base import Format, as_labels, check_intensities, nothing, refused, shown
from medseg.formats.itk_header import ItkHeader, looks_like_metaimage, looks_like_nrrd, parse_header
from medseg.geometry import Geometry
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, Study
from medseg.volume import Segmentation, Volume

_NAME = "itk"
_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is NRRD or MetaImage by its first bytes, or by its name."""
    return looks_like_nrrd(head) or path.suffix.lower() in _SUFFIXES


def scan(paths: Sequence[Path], options: ScanOptions = DEFAULT_OPTIONS, done: Callable[[], None] = nothing) -> Study:
    """Read the header of every file."""
    series, skipped = [], []
    for path in paths:
        try:
            header = parse_header(path)
            geometry = _geometry(_reader(path, header, information=True), header)
        except MedsegError as error:
            with path.open("rb") as file:
                start = file.read(64)
            if looks_like_nrrd(start) or looks_like_metaimage(start):
                series.append(refused((path,), _NAME, error))
            else:
                skipped.append((path, "not a NRRD or MetaImage file, whatever its name says"))
        else:
            found = _findings(header)
            series.append(Series((path,), _NAME, True, found, geometry.shape, geometry.spacing_mm))
        done()
    return Study(tuple(series), tuple(skipped))


def read(series: Series, frame: int | None) -> Volume:
    """Read one volume (1, I, J, K)."""
    if frame not in (None, 0):
        raise InputError(f"{shown(series.paths[0])}: has no frame {frame}, only one; leave --frame out.")
    array, geometry, findings = _voxels(series.paths[0])
    check_intensities(array, series.paths[0])
    return Volume(array[np.newaxis], geometry, None, findings)


def read_segmentation(series: Series) -> Segmentation:
    """Read labels."""
    array, geometry, findings = _voxels(series.paths[0])
    return Segmentation(as_labels(array, series.paths[0]), geometry, None, findings)


ITK = Format(_NAME, recognises, scan, read, read_segmentation)


def _voxels(path: Path) -> tuple[NDArray[Any], Geometry, tuple[Finding, ...]]:
    header = parse_header(path)
    image = _reader(path, header, information=False)
    geometry = _geometry(image, header)
    import SimpleITK  # noqa: PLC0415 - 100 MB that other formats do without

    array = SimpleITK.GetArrayFromImage(image)
    return array.reshape(geometry.shape[::-1]).transpose(2, 1, 0), geometry, _findings(header)


def _reader(path: Path, header: ItkHeader, *, information: bool) -> Any:
    """ITK's reader with the header read, or the image that it reads."""
    import SimpleITK  # noqa: PLC0415 - as above

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(header.reader)
    try:
        if information:
            reader.ReadImageInformation()
            return reader
        return reader.Execute()
    except RuntimeError:
        raise InputError(f"{shown(path)}: cannot be decoded; copy or convert the file again.") from None


def _geometry(image: Any, header: ItkHeader) -> Geometry:
    size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
    count = len(size)
    affine = np.eye(4)
    affine[:count, :count] = np.reshape(image.GetDirection(), (count, count)) * spacing
    affine[:count, 3] = origin
    try:
        geometry = Geometry((*size, *(1,) * (3 - count)), _LPS_TO_RAS @ affine)
    except GeometryError as error:
        raise GeometryError(f"The file's {error}") from None
    if geometry.shape != header.shape:
        raise InputError("The header is read in two ways; convert the file again.")
    return geometry


def _findings(header: ItkHeader) -> tuple[Finding, ...]:
    findings: tuple[Finding, ...] = ()
    if not header.has_space:
        text = "The file does not say how the scan lies in the patient; LPS axes are assumed."
        findings = (Finding("no-orientation", text),)
    if header.shape[2] == 1:
        findings = (*findings, Finding("no-slice-thickness", "A 2D image; its third axis may be assumed."))
    return findings
