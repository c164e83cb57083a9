"""A NIfTI header, checked: every size is bounded against the file before anything is allocated.

NIfTI-1 and NIfTI-2 as https://nifti.nimh.nih.gov/nifti-1 and /nifti-2 define them. `nifti_fields` knows the fields;
what they may say is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError
from medseg.formats.base import by, shown
from medseg.formats.nifti_fields import NIFTI1, NIFTI2, Fields
from medseg.geometry import Geometry, Shape
from medseg.study import Finding

_SINGLE, _PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_REFUSED_TYPES = {
    1: "1-bit", 32: "complex (complex64)", 128: "colour (RGB)", 1536: "128-bit float",
    1792: "complex (complex128)", 2048: "complex (complex256)", 2304: "colour (RGBA)",
}  # fmt: skip
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre and micron; 2 is mm, and files that say nothing mean mm
_UNIT_NAMES = {1: "metres", 3: "microns"}
_MOST_EXTENSION_BYTES = 16 * 2**20
_DEFLATE_RATIO = 1032  # deflate cannot inflate more than this, so a gzip file's size bounds its content


class NotNiftiError(InputError):
    """The file is something else, whatever its name says."""


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says about its voxels.

    Attributes:
        path: File of the header.
        single: Whether the voxels are in the same file; otherwise they are in the .img beside it.
        shape: Voxels along (I, J, K).
        frames: Volumes along the fourth axis.
        dtype: Type and byte order as stored.
        offset: Byte in the (inflated) file where the voxels begin.
        scaling: (slope, intercept), or None if stored values are the values.
        geometry: Where the voxels lie.
        findings: Doubts about it.
        extensions: (code, content) of each header extension.
    """

    path: Path
    single: bool
    shape: Shape
    frames: int
    dtype: np.dtype[Any]
    offset: int
    scaling: tuple[float, float] | None
    geometry: Geometry
    findings: tuple[Finding, ...]
    extensions: tuple[tuple[int, bytes], ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one volume."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def check_size(self, file_bytes: int, gzipped: bool) -> None:
        """Check that a file can hold the voxels that the header promises.

        Raises:
            InputError: If it is too small.
        """
        needed = self.offset + self.frames * self.frame_bytes
        if needed > file_bytes * (_DEFLATE_RATIO if gzipped else 1):
            raise InputError(
                f"{shown(self.path)}: the data are cut short: {by(self.shape)} voxels need {needed} bytes,"
                f" the file has {file_bytes}{' (gzip)' if gzipped else ''}; copy or download it again."
            )


def looks_like_nifti(head: bytes) -> bool:
    """Whether the first bytes carry the magic of NIfTI-1 or NIfTI-2, or the size of an Analyze header."""
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    return head[344:347] in _SINGLE + _PAIR or head[4:7] in _SINGLE + _PAIR or (348 in sizes and len(head) >= 348)


def parse_header(stream: BinaryIO, path: Path) -> NiftiHeader:
    """Read a header from the start of a stream, which is left where the extensions end.

    Raises:
        InputError: If it is not NIfTI, is damaged, or holds a kind of image that is not read.
        GeometryError: If it does not tell where the voxels lie.
    """
    header = _header_block(stream, path)
    single = _is_single(header, path)
    sizes = _sizes(header, path)
    dtype = _dtype(header, path)
    offset = _offset(header, single, path)
    shape: Shape = (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1)
    geometry, findings = _geometry(header, shape, path)
    return NiftiHeader(
        path=path,
        single=single,
        shape=shape,
        frames=sizes[3] if len(sizes) > 3 else 1,
        dtype=dtype,
        offset=offset,
        scaling=_scaling(header, path),
        geometry=geometry,
        findings=findings,
        extensions=_extensions(stream, offset - header.kind.size if single else _MOST_EXTENSION_BYTES, header),
    )


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{shown(path)}: the NIfTI header is damaged, {what}; copy or convert the file again.")


def _header_block(stream: BinaryIO, path: Path) -> Fields:
    block = stream.read(348)
    for kind in (NIFTI1, NIFTI2):
        for name, order in (("little", "<"), ("big", ">")):
            if len(block) >= 4 and int.from_bytes(block[:4], name) == kind.size:  # type: ignore[arg-type]
                block += stream.read(kind.size - 348)
                if len(block) < kind.size:
                    raise InputError(f"{shown(path)}: the data are cut short in the header; copy the file again.")
                return Fields(kind, block, order)
    raise NotNiftiError(f"{shown(path)}: not a NIfTI file, whatever its name says; give a NIfTI or DICOM scan.")


def _is_single(header: Fields, path: Path) -> bool:
    magic = bytes(header["magic"])[:3]
    if magic in _SINGLE:
        return True
    if magic in _PAIR:
        return False
    raise InputError(
        f"{shown(path)}: Analyze 7.5, or NIfTI with a damaged magic ({magic!r}); Analyze does not say which side is"
        " left, convert it to NIfTI with a tool that lets you state it."
    )


def _sizes(header: Fields, path: Path) -> list[int]:
    """The sizes of the axes, (I, J), (I, J, K) or (I, J, K, frames)."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise _damaged(path, f"it claims {count} dimensions")
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 0:
        raise _damaged(path, f"its size is {by(sizes)}")
    if min(sizes) == 0:
        raise InputError(f"{shown(path)}: an empty image of {by(sizes)} voxels; check how it was exported.")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) not in (2, 3, 4):
        raise InputError(
            f"{shown(path)}: a {len(sizes)}-dimensional image ({by(sizes)}), vectors or tensors perhaps;"
            " give one volume of 2 or 3 dimensions."
        )
    return sizes


def _dtype(header: Fields, path: Path) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code in _REFUSED_TYPES:
        raise InputError(f"{shown(path)}: a {_REFUSED_TYPES[code]} image; give one of plain integers or floats.")
    if code not in _DTYPES:
        raise _damaged(path, f"its data type {code} does not exist")
    dtype: np.dtype[Any] = np.dtype(header.order + _DTYPES[code])
    return dtype


def _offset(header: Fields, single: bool, path: Path) -> int:
    offset = float(header["vox_offset"])
    least = header.kind.size + 4 if single else 0
    if not least <= offset < 2**62:
        raise _damaged(path, f"voxels cannot begin at byte {offset:g}")
    return int(offset)


def _scaling(header: Fields, path: Path) -> tuple[float, float] | None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):  # not set
        return None
    if not np.isfinite(intercept):
        raise _damaged(path, f"scl_slope {slope} goes with scl_inter {intercept}")
    return None if (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _extensions(stream: BinaryIO, room: int, header: Fields) -> tuple[tuple[int, bytes], ...]:
    """The extensions between the header and the voxels; what is malformed is passed over, for it holds no voxels."""
    extender = stream.read(4) if room >= 4 else b""
    room = min(room - 4, _MOST_EXTENSION_BYTES)
    found = []
    while extender[:1] not in (b"", b"\0") and room >= 8:
        start = stream.read(8)
        order = "little" if header.order == "<" else "big"
        size, code = (int.from_bytes(start[at : at + 4], order) for at in (0, 4))  # type: ignore[arg-type]
        if not 8 <= size <= room:
            break
        content = stream.read(size - 8)
        if len(content) < size - 8:
            break
        found.append((code, content))
        room -= size
    return tuple(found)


def _geometry(header: Fields, shape: Shape, path: Path) -> tuple[Geometry, tuple[Finding, ...]]:
    """By NIfTI's own order: sform, else qform, else the spacing alone."""
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # what the standard says of 0
    findings: list[Finding] = []
    sform = header.sform if header["sform_code"] > 0 else None
    qform = _qform(header) if header["qform_code"] > 0 else None
    if sform is None and qform is None and header["qform_code"] > 0:
        raise GeometryError(f"{shown(path)}: the qform is damaged and there is no sform; correct the header.")
    affine = sform if sform is not None else qform
    if affine is None:
        affine = _unplaced(header, shape)
        text = "The file does not say how the scan lies in the patient (no qform, no sform); LAS is assumed."
        findings.append(Finding("no-orientation", text))
    try:
        geometry = Geometry(shape, _in_mm(header, _thick(affine, shape, findings), findings))
    except GeometryError as error:
        raise GeometryError(f"{shown(path)}: {error}") from None
    if sform is not None and header["qform_code"] > 0 and not _agree(qform, sform, shape):
        text = "qform and sform place the scan differently; the sform was taken."
        findings.append(Finding("qform-sform-differ", text))
    return geometry, tuple(findings)


def _qform(header: Fields) -> NDArray[np.float64] | None:
    try:
        with np.errstate(invalid="ignore"):  # not a finite affine: found and named by the caller
            return header.qform
    except ValueError:
        return None


def _unplaced(header: Fields, shape: Shape) -> NDArray[np.float64]:
    """By the spacing alone: axes L, A and S, the middle of the image at 0."""
    spacing = np.ones(3)
    count = min(int(header["dim"][0]), 3)
    spacing[:count] = header["pixdim"][1 : 1 + count]
    spacing[0] *= -1
    affine = np.diag((*spacing, 1.0))
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return affine


def _agree(qform: NDArray[np.float64] | None, sform: NDArray[np.float64], shape: Shape) -> bool:
    try:
        return qform is not None and Geometry(shape, sform).matches(Geometry(shape, qform))
    except GeometryError:
        return shape[2] == 1 and qform is not None and np.allclose(qform[:, (0, 1, 3)], sform[:, (0, 1, 3)], atol=1e-3)


def _thick(affine: NDArray[np.float64], shape: Shape, findings: list[Finding]) -> NDArray[np.float64]:
    """Give a 2D image, which need not say how thick it is, a third axis of 1 mm."""
    if shape[2] > 1 or np.linalg.norm(affine[:3, 2]) > 1e-6 or not np.isfinite(affine).all():
        return affine
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    if not np.any(normal):
        return affine
    findings.append(Finding("no-slice-thickness", "A 2D image without slice thickness; 1 mm is assumed."))
    affine = affine.copy()
    affine[:3, 2] = normal / np.linalg.norm(normal)
    return affine


def _in_mm(header: Fields, affine: NDArray[np.float64], findings: list[Finding]) -> NDArray[np.float64]:
    unit = int(header["xyzt_units"]) & 0x07
    if unit not in _MM_PER_UNIT:
        return affine
    findings.append(Finding("units", f"Lengths are in {_UNIT_NAMES[unit]}; they were converted to mm."))
    return np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine
