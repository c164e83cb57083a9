"""Label files as NIfTI-1, or as NIfTI-2 where NIfTI-1 cannot hold the size. The bytes depend on the labels alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from medseg.formats.nifti_fields import NIFTI1, NIFTI2, Fields
from medseg.geometry import Geometry
from medseg.labels import LabelSet

COMMENT = 6  # NIFTI_ECODE_COMMENT
NAMES_KEY = "medseg_labels"

_DATATYPES = {"uint8": 2, "uint16": 512, "uint32": 768}
_MM, _SCANNER = 2, 1  # of xyzt_units; qform and sform code: scanner-based anatomical coordinates
_LARGEST_NIFTI1_SIZE = 32767
_GZIP_LEVEL, _GZIP_WINDOW = 1, 31  # smaller files than nibabel's, several times as fast; gzip's header, without a time
_CHUNK_BYTES = 2**20


def save(path: Path, array: NDArray[np.integer[Any]], geometry: Geometry, labels: LabelSet | None) -> None:
    """Write labels, gzipped where the name ends in .gz.

    Args:
        path: The file.
        array: Labels (I, J, K), unsigned, of up to 32 bits; quickest where I varies fastest in memory, as in the file.
        geometry: Where they lie, in mm; qform and sform both say "scanner".
        labels: Their names, for a header extension.
    """
    header = _header(array, geometry, _extension(labels) if labels else b"")
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            file.write(header)
            for part in _voxels(array):
                file.write(part)
            return
        gzip = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        file.write(gzip.compress(header))
        for part in _voxels(array):
            file.write(gzip.compress(part))
        file.write(gzip.flush())


def _header(array: NDArray[Any], geometry: Geometry, extension: bytes) -> bytes:
    """Header and extension, up to the first voxel."""
    kind = NIFTI1 if max(geometry.shape) <= _LARGEST_NIFTI1_SIZE else NIFTI2
    header = Fields.empty(kind)
    header["magic"] = kind.magic
    if kind is NIFTI2:
        header["eol_check"] = b"\r\n\x1a\n"
    header["dim"] = (3, *geometry.shape, 1, 1, 1, 1)
    header["pixdim"] = (1, *geometry.spacing_mm, 1, 1, 1, 1)
    header["datatype"] = _DATATYPES[array.dtype.name]
    header["bitpix"] = 8 * array.dtype.itemsize
    header["vox_offset"] = kind.size + 4 + len(extension)
    header["scl_slope"] = 1
    header["xyzt_units"] = _MM
    header["sform_code"] = _SCANNER
    header["srow"] = geometry.affine[:3]
    # A qform cannot hold a shear: it would contradict the sform, so a tilted grid goes without.
    if geometry.is_orthogonal:
        header.set_qform(geometry.affine)
        # Near half a turn a quaternion of single precision is too coarse.
        header["qform_code"] = _SCANNER * geometry.matches(Geometry(geometry.shape, header.qform))
    return bytes(header) + bytes((bool(extension), 0, 0, 0)) + extension


def _extension(labels: LabelSet) -> bytes:
    text = json.dumps({NAMES_KEY: labels.model_dump(mode="json", exclude_none=True)["labels"]}).encode("ascii")
    size = -(-(8 + len(text)) // 16) * 16  # a multiple of 16, as the standard wants it
    return size.to_bytes(4, "little") + COMMENT.to_bytes(4, "little") + text.ljust(size - 8, b"\0")


def _voxels(array: NDArray[Any]) -> Iterator[memoryview]:
    """The voxels as bytes, little-endian, I fastest, in pieces that stay in the processor's cache."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    planes = [little] if little.flags.f_contiguous else [little[:, :, k] for k in range(little.shape[2])]
    for plane in planes:
        content = memoryview(cast("Any", np.asfortranarray(plane).T.reshape(-1).view(np.uint8)))
        for start in range(0, len(content), _CHUNK_BYTES):
            yield content[start : start + _CHUNK_BYTES]
