"""Pictures: PNG, JPEG and TIFF as images of one slice, which have no place in the patient."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputError, MedsegError
from medseg.formats.base import Format, as_labels, by, check_intensities, nothing, refused, shown
from medseg.geometry import Geometry
from medseg.study import DEFAULT_OPTIONS, NO_SPACING, Finding, ScanOptions, Series, Study
from medseg.volume import Segmentation, Volume

if TYPE_CHECKING:
    from PIL import Image

_NAME = "picture"
_KINDS = ("PNG", "JPEG", "TIFF")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MOST_PIXELS = 2**28
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")
_AFFINE = np.diag((-1.0, -1.0, 1.0, 1.0))  # columns to the patient's left, rows to the back, as radiologists look
_NO_SPACING = Finding(NO_SPACING, "A picture: lengths are in pixels, not in mm, and its place is unknown.")


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is a picture by its first bytes, or by its name."""
    return head.startswith(_MAGIC) or path.suffix.lower() in _SUFFIXES


def scan(paths: Sequence[Path], options: ScanOptions = DEFAULT_OPTIONS, done: Callable[[], None] = nothing) -> Study:
    """Read the header of every file; pictures are left out where there is a scan."""
    series, skipped = [], []
    for path in paths:
        with path.open("rb") as file:
            is_picture = file.read(16).startswith(_MAGIC)
        if not is_picture:
            skipped.append((path, "not a picture, whatever its name says"))
        else:
            try:
                shape = _shape(path)
            except MedsegError as error:
                one = refused((path,), _NAME, error)
            else:
                one = Series((path,), _NAME, True, (_NO_SPACING,), shape, (1.0, 1.0, 1.0))
            series.append(
                Series(one.paths, _NAME, one.readable, one.findings, one.shape, one.spacing_mm, aside="a picture")
            )
        done()
    return Study(tuple(series), tuple(skipped))


def read(series: Series, frame: int | None) -> Volume:
    """Read a picture as (channels, I, J, 1): one channel of grey values or three of colours."""
    path = series.paths[0]
    if frame not in (None, 0):
        raise InputError(f"{shown(path)}: has no frame {frame}, only one; leave --frame out.")
    array = _pixels(path, indices=False)
    check_intensities(array, path)
    shape = (array.shape[1], array.shape[0], 1)
    channels = np.moveaxis(array.reshape(*array.shape[:2], -1), -1, 0).transpose(0, 2, 1)[..., np.newaxis]
    return Volume(channels, Geometry(shape, _AFFINE), None, (_NO_SPACING,))


def read_segmentation(series: Series) -> Segmentation:
    """Read labels: grey values, or the indices of a palette."""
    path = series.paths[0]
    array = _pixels(path, indices=True)
    if array.ndim != 2:
        raise InputError(f"{shown(path)}: a picture in colours, so no labels; give grey values or a palette.")
    labels = as_labels(array.T[..., np.newaxis], path)
    return Segmentation(labels, Geometry(labels.shape, _AFFINE), None, (_NO_SPACING,))


RASTER = Format(_NAME, recognises, scan, read, read_segmentation)


def _opened(path: Path) -> Image.Image:
    from PIL import Image  # noqa: PLC0415 - not for those who have no picture

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's word on large pictures, which are bounded below
            picture = Image.open(path, formats=_KINDS)
            pages = getattr(picture, "n_frames", 1)
    except Exception:  # Pillow raises whatever it likes on damaged data
        raise InputError(f"{shown(path)}: the picture is damaged; copy the file again.") from None
    if picture.width * picture.height > _MOST_PIXELS:
        raise InputError(f"{shown(path)}: a picture of {by(picture.size)} pixels, more than is read; crop it.")
    if pages > 1:
        raise InputError(f"{shown(path)}: several pictures in one file, without their distance; convert it to NIfTI.")
    return picture


def _shape(path: Path) -> tuple[int, int, int]:
    with _opened(path) as picture:
        return picture.width, picture.height, 1


def _pixels(path: Path, *, indices: bool) -> NDArray[Any]:
    """Pixels (rows, columns) or (rows, columns, 3)."""
    with _opened(path) as picture:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if picture.mode in _GREY or (indices and picture.mode == "P"):
                    array = np.asarray(picture)
                elif picture.mode in ("LA", "La"):
                    array = np.asarray(picture.convert("L"))
                else:
                    array = np.asarray(picture.convert("RGB"))
        except Exception:  # as above
            raise InputError(f"{shown(path)}: the picture is damaged; copy the file again.") from None
    return array.astype(np.uint8) if array.dtype == bool else array.astype(array.dtype.newbyteorder("="))
