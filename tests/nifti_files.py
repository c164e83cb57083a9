"""NIfTI files made for tests, wrong ones among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

AFFINE = np.array([[-2, 0, 0.15, 30], [0, 1.5, 0, -4], [0.1, 0, 3, 7], [0, 0, 0, 1.0]])  # perpendicular axes
SHAPE = (5, 4, 3)
RAMP = np.arange(60).reshape(SHAPE)


def save(path: Path, array: np.ndarray = RAMP, kind: Any = nib.Nifti1Image, dtype: Any = None, **header: Any) -> Path:
    """A NIfTI file with these header fields, written past nibabel's own checks."""
    array = array if dtype is None else array.astype(dtype)
    image = kind(array if array.dtype != np.int64 else array.astype(np.int16), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    image.to_filename(path)
    if header:
        edit(path, lambda h: [h.__setitem__(name, value) for name, value in header.items()])
    return path


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = bytearray(path.read_bytes())
    kind = nib.Nifti2Header if content[4:7] == b"n+2" else nib.Nifti1Header
    size = kind.sizeof_hdr
    header = kind(bytes(content[:size]), check=False)
    change(header)
    content[:size] = header.binaryblock
    path.write_bytes(content)
