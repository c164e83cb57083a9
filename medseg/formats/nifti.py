"""NIfTI-1 and NIfTI-2: .nii, .nii.gz, and .hdr/.img pairs.

Label names travel in a header extension of code 6 ("comment", plain ASCII text), which every NIfTI reader passes
over: one JSON object, {"medseg_labels": [{"index": 1, "name": "Anterior", "code": ..., "colour": ...}, ...]}, as
`LabelSet` writes itself. The label table of TotalSegmentator and Caret (XML, code 0 or 30) is read too.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from isal import igzip, igzip_lib
from numpy.typing import NDArray
from pydantic import ValidationError

from medseg.atomic import atomic_path
from medseg.errors import InputError, MedsegError
from medseg.formats.base import Format, allocate, as_labels, by, check_intensities, nothing, refused, shown
from medseg.formats.check import confirm, mismatch
from medseg.formats.files import GZIP_MAGIC
from medseg.formats.nifti_header import NiftiHeader, NotNiftiError, looks_like_nifti, parse_header
from medseg.formats.nifti_write import NAMES_KEY, save
from medseg.formats.planes import Planes
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, Study
from medseg.volume import Segmentation, Volume

_NAME = "nifti"
_CARET_LABEL = re.compile(r'<Label\s[^>]*?Key="(\d{1,9})"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>')
_CHUNK_BYTES = 4 * 2**20
_DAMAGED = (EOFError, cast("type[Exception]", igzip_lib.IsalError), igzip.BadGzipFile)


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is NIfTI by its first bytes, or by its name."""
    return looks_like_nifti(head) or _bare(path).suffix.lower() in (".nii", ".hdr", ".img")


def scan(paths: Sequence[Path], options: ScanOptions = DEFAULT_OPTIONS, done: Callable[[], None] = nothing) -> Study:
    """Read the header of every file; an .img counts with its .hdr."""
    series, skipped = [], []
    headers: dict[Path, None] = {}
    for path in paths:
        header = _sibling(path, ".hdr") if _bare(path).suffix.lower() == ".img" else path
        if header is None:
            skipped.append((path, "voxels without a header: there is no .hdr beside it"))
        else:
            headers[header] = None
    for path in headers:
        try:
            series.append(_series(path))
        except NotNiftiError:
            skipped.append((path, "not a NIfTI file, whatever its name says"))
        except MedsegError as error:
            series.append(refused((path,), _NAME, error))
        done()
    return Study(tuple(series), tuple(skipped))


def read(series: Series, frame: int | None) -> Volume:
    """Read one volume (1, I, J, K); I varies fastest in memory, as in the file."""
    array, header = _voxels(series.paths[0], frame)
    check_intensities(array, header.path)
    return Volume(array[np.newaxis], header.geometry, None, header.findings)


def read_segmentation(series: Series) -> Segmentation:
    """Read labels and, if the header has them, their names."""
    array, header = _voxels(series.paths[0], None)
    labels, doubts = _label_names(header)
    return Segmentation(as_labels(array, header.path), header.geometry, labels, header.findings + doubts)


def write(segmentation: Segmentation, path: Path) -> None:
    """Write labels in the smallest unsigned type, in mm, with qform and sform both saying "scanner"."""
    labels, geometry = segmentation.labels, segmentation.geometry
    array = as_labels(segmentation.array, path)
    if labels and max(labels.indices, default=0) > np.iinfo(array.dtype).max:
        array = array.astype(np.min_scalar_type(max(labels.indices)))
    with atomic_path(path) as part:
        save(part, array, geometry, labels)
        _confirm(part, path, array, geometry)


def _confirm(part: Path, path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    """Read a file back, by a reader that shares nothing with what wrote it but the places of the fields."""
    try:
        found, header = _voxels(part, None)
    except MedsegError as error:
        raise mismatch(path, str(error).rstrip(".")) from None
    if header.findings:
        raise mismatch(path, header.findings[0].message.rstrip("."))
    there = header.geometry
    confirm(path, (array.transpose(2, 1, 0), Planes.of(geometry)), (found.transpose(2, 1, 0), Planes.of(there)))


NIFTI = Format(_NAME, recognises, scan, read, read_segmentation, write, suffixes=(".nii.gz", ".nii"))


def _series(path: Path) -> Series:
    with _opened(path) as (stream, gzipped):
        header = parse_header(stream, path)
    paths: tuple[Path, ...] = (path,)
    if header.single:
        header.check_size(path.stat().st_size, gzipped)
    else:
        voxels = _voxel_file(header)
        paths = (path, voxels)
        with _opened(voxels) as (_, gzipped):
            header.check_size(voxels.stat().st_size, gzipped)
    findings = header.findings
    if header.frames > 1:
        findings += (Finding("frames", f"Holds {header.frames} volumes; choose one with --frame N, N from 0."),)
    spacing_mm = header.geometry.spacing_mm
    return Series(paths, _NAME, True, findings, header.shape, spacing_mm, header.frames)


def _voxels(path: Path, frame: int | None) -> tuple[NDArray[Any], NiftiHeader]:
    """Values (I, J, K) in native byte order, scaled if the file says so; a file is opened once."""
    with _opened(path) as (stream, gzipped):
        header = parse_header(stream, path)
        frame = _frame(header, frame)
        if header.single:
            header.check_size(path.stat().st_size, gzipped)
            return _scaled(_stored(stream, header, frame), header), header
    voxels = _voxel_file(header)
    with _opened(voxels) as (stream, gzipped):
        header.check_size(voxels.stat().st_size, gzipped)
        return _scaled(_stored(stream, header, frame), header), header


def _frame(header: NiftiHeader, frame: int | None) -> int:
    many = header.frames > 1
    if frame is None and many:
        raise InputError(
            f"{shown(header.path)}: a 4-dimensional image of {header.frames} volumes of {by(header.shape)} voxels;"
            f" choose one with --frame N, N from 0 to {header.frames - 1}."
        )
    if frame is not None and not 0 <= frame < header.frames:
        remedy = f"choose --frame N with N from 0 to {header.frames - 1}" if many else "leave --frame out"
        raise InputError(f"{shown(header.path)}: has no frame {frame}, only {header.frames}; {remedy}.")
    return frame or 0


def _stored(stream: BinaryIO, header: NiftiHeader, frame: int) -> NDArray[Any]:
    array = allocate(header.shape[::-1], header.dtype, header.path)
    stream.seek(header.offset + frame * header.frame_bytes)
    target = memoryview(cast("Any", array.reshape(-1).view(np.uint8)))
    done = 0
    while done < len(target):
        count = cast("Any", stream).readinto(target[done : done + _CHUNK_BYTES])
        if not count:
            raise InputError(
                f"{shown(header.path)}: the data are cut short, {done} of {len(target)} bytes of voxels are there;"
                " copy or download the file again."
            )
        done += count
    stream.read(1)  # at the end of a gzip file this checks its checksum
    if not header.dtype.isnative:
        array = array.byteswap(inplace=True).view(header.dtype.newbyteorder())
    return array.transpose(2, 1, 0)


def _scaled(array: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    if header.scaling is None:
        return array
    slope, intercept = header.scaling
    scaled = allocate(array.shape[::-1], np.float32, header.path).transpose(2, 1, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are found and named by the caller
        for k in range(array.shape[2]):  # plane by plane: in double precision, without a second volume of doubles
            scaled[:, :, k] = array[:, :, k].astype(np.float64) * slope + intercept
    return scaled


def _label_names(header: NiftiHeader) -> tuple[LabelSet | None, tuple[Finding, ...]]:
    for _, content in header.extensions:
        text = content.rstrip(b"\0").decode("utf-8", errors="replace")
        try:
            if NAMES_KEY in text:
                return LabelSet.model_validate({"labels": json.loads(text)[NAMES_KEY]}), ()
            if "<CaretExtension" in text:
                names = {int(key): html.unescape(cdata or name) for key, cdata, name in _CARET_LABEL.findall(text)}
                return LabelSet.from_names(names), ()
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError):
            return None, (Finding("label-names", "The label names in the header cannot be read; numbers are used."),)
    return None, ()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file's content, inflated if it is gzip whatever its name says; and whether it was."""
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if not gzipped:
                yield file, False
                return
            with igzip.GzipFile(fileobj=file) as inflated:
                yield cast("BinaryIO", inflated), True
    except _DAMAGED:
        text = "the gzip data are damaged or cut short; copy or download the file again."
        raise InputError(f"{shown(path)}: {text}") from None
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the file.") from None


def _voxel_file(header: NiftiHeader) -> Path:
    voxels = _sibling(header.path, ".img")
    if voxels is None:
        raise InputError(f"{shown(header.path)}: its voxels are in an .img file that is not beside it; copy both.")
    return voxels


def _bare(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def _sibling(path: Path, suffix: str) -> Path | None:
    """The other file of a pair, which may be compressed on its own."""
    bare = _bare(path)
    for ending in (suffix, suffix + ".gz", suffix.upper(), suffix.upper() + ".gz"):
        candidate = bare.with_suffix("").with_name(bare.stem + ending)
        if candidate.is_file():
            return candidate
    return None
