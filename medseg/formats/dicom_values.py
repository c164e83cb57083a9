"""Rescaled values of DICOM planes, in the smallest type that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.base import allocate
from medseg.formats.dicom_pixels import PixelError, Pixels
from medseg.formats.dicom_slice import Slice


def read_values(slices: Sequence[Slice]) -> tuple[NDArray[Any], dict[int, PixelError]]:
    """Rescaled values (planes, J, I) in order, and what is wrong with planes that cannot be read.

    Integers stay integers, of the type that is stored unless the values need another, where no plane is scaled and
    all have the same whole intercept; else float32. There is never a second volume but where the type must widen.
    """
    first = slices[0]
    shape = (len(slices), first.rows, first.columns)
    is_whole = all(one.slope == 1.0 and one.intercept.is_integer() for one in slices)
    lowest, highest = _limits(slices)
    same = len({one.intercept for one in slices}) == 1
    if not is_whole or not np.iinfo(np.int64).min // 2 < lowest <= highest < np.iinfo(np.int64).max // 2:
        planes = allocate(shape, np.float32, first.path)
        return planes, _fill(planes, slices, lambda values, one: values.astype(np.float64) * one.slope + one.intercept)
    if not same:
        planes = allocate(shape, _smallest(lowest, highest), first.path)
        return planes, _fill(planes, slices, lambda values, one: values.astype(np.int64) + int(one.intercept))
    ranges = [one.stored.range for one in slices]
    planes = allocate(shape, _smallest(min(low for low, _ in ranges), max(high for _, high in ranges)), first.path)
    broken = _fill(planes, slices, lambda values, _: values)
    intercept = int(first.intercept)
    return (_shifted(planes, intercept, first.path) if intercept else planes), broken


def _limits(slices: Sequence[Slice]) -> tuple[int, int]:
    ranges = [(one.stored.range, one.intercept if np.isfinite(one.intercept) else 0.0) for one in slices]
    return min(low + int(b) for (low, _), b in ranges), max(high + int(b) for (_, high), b in ranges)


def _fill(planes: NDArray[Any], slices: Sequence[Slice], rescale: Any) -> dict[int, PixelError]:
    broken = {}
    with Pixels() as pixels, np.errstate(over="ignore", invalid="ignore"):  # infinities are named by the caller
        for n in sorted(range(len(slices)), key=lambda n: (slices[n].path, slices[n].frame)):
            try:
                planes[n] = rescale(pixels.read(slices[n]), slices[n])
            except PixelError as error:
                planes[n] = 0
                broken[n] = error
    return broken


def _shifted(planes: NDArray[Any], intercept: int, path: Path) -> NDArray[Any]:
    # As if 0 were stored too, so that the sign of the type follows the intercept and not what a scan happens to hold.
    low, high = min(int(planes.min()), 0) + intercept, max(int(planes.max()), 0) + intercept
    dtype = _smallest(low, high, planes.itemsize)
    if dtype.itemsize == planes.itemsize:  # in place: sums of whole numbers are right in spite of overflow
        same_bits = planes.view(f"u{planes.itemsize}")
        same_bits += np.array(intercept % 2 ** (8 * planes.itemsize)).astype(same_bits.dtype)
        return planes.view(dtype)
    target = allocate(planes.shape, dtype, path)
    for k, plane in enumerate(planes):
        target[k] = plane.astype(np.int64) + intercept
    return target


def _smallest(low: int, high: int, least_bytes: int = 1) -> np.dtype[Any]:
    for code in ("u1", "i1", "u2", "i2", "u4", "i4"):
        limits = np.iinfo(code)
        if limits.min <= low and high <= limits.max and np.dtype(code).itemsize >= least_bytes:
            return np.dtype(code)
    return np.dtype(np.int64)
