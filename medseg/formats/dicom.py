"""DICOM: one slice a file, as CT, MR and PET scanners write them.

Slices that do not form a regular, upright stack of one kind are refused: a volume is right, or there is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats.base import Format, allocate, check_intensities, refused, shown
from medseg.formats.dicom_slice import (
    SkippedFileError,
    Slice,
    looks_like_dicom,
    read_pixels,
    read_slice,
)
from medseg.formats.dicom_stack import stack
from medseg.study import Finding, Series, Study
from medseg.volume import Volume

_NAME = "dicom"
_DAMAGED = "damaged-file"


@dataclass(frozen=True)
class _Stack(Series):
    """A series that remembers its headers, so that `read` need not open every file a second time for them."""

    slices: tuple[Slice, ...] = ()


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is DICOM by its first bytes, or by its name."""
    return looks_like_dicom(head) or path.suffix.lower() in (".dcm", ".ima") or path.name == "DICOMDIR"


def scan(paths: Sequence[Path]) -> Study:
    """Read the header of every file and put together what belongs to one series."""
    groups: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
    skipped: list[tuple[Path, str]] = []
    damaged: dict[Path, list[Finding]] = defaultdict(list)
    for path in paths:
        try:
            one = read_slice(path)
        except SkippedFileError as error:
            skipped.append((path, str(error)))
            if error.damaged:  # it may be a slice of any series beside it
                text = f"{shown(path.name)} was left out: {error}."
                damaged[path.parent].append(Finding(_DAMAGED, text))
        else:
            groups[one.group].append(one)
    series = tuple(
        _series(slices, [finding for folder in sorted({s.path.parent for s in slices}) for finding in damaged[folder]])
        for slices in groups.values()
    )
    return Study(series, tuple(skipped))


def read(series: Series, frame: int | None) -> Volume:
    """Read a series into (1, I, J, K) = (1, column, row, slice), each slice rescaled by its own slope and intercept."""
    if frame not in (None, 0):
        raise InputError(f"{shown(series.paths[0])}: has no frame {frame}, only one; leave --frame out.")
    slices = series.slices if isinstance(series, _Stack) else tuple(_required(path) for path in series.paths)
    try:
        slices, geometry, findings = stack(slices)
    except GeometryError as error:
        damaged = "".join(f" {finding.message}" for finding in series.findings if finding.code == _DAMAGED)
        raise GeometryError(f"{error}{damaged}") from None
    array = _values(slices).transpose(2, 1, 0)
    check_intensities(array, slices[0].path.parent if len(slices) > 1 else slices[0].path)
    doubts = tuple(dict.fromkeys((*series.findings, *findings)))
    return Volume(array[np.newaxis], geometry, slices[0].modality or None, doubts)


DICOM = Format(_NAME, recognises, scan, read)


def _series(slices: list[Slice], damaged: list[Finding]) -> Series:
    try:
        ordered, geometry, findings = stack(slices)
    except MedsegError as error:
        return refused(tuple(sorted(one.path for one in slices)), _NAME, error, *damaged)
    return _Stack(
        paths=tuple(one.path for one in ordered),
        format=_NAME,
        findings=(*findings, *damaged),
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        modality=ordered[0].modality or None,
        slices=ordered,
    )


def _required(path: Path) -> Slice:
    try:
        return read_slice(path)
    except SkippedFileError as error:
        raise InputError(f"{shown(path)}: {error}.") from None


def _values(slices: Sequence[Slice]) -> NDArray[Any]:
    """Rescaled values (K, J, I) of slices in order.

    Integers stay integers, of the type that is stored unless the values need another, where no slice is scaled and
    all have the same whole intercept; else float32. There is never a second volume but where the type must widen.
    """
    first = slices[0]
    shape = (len(slices), first.rows, first.columns)
    if any((one.slope, one.intercept) != (1.0, first.intercept) for one in slices) or not first.intercept.is_integer():
        planes = allocate(shape, np.float32, first.path)
        for plane, one in zip(planes, slices, strict=True):
            plane[...] = read_pixels(one).astype(np.float64) * one.slope + one.intercept
        return planes
    ranges = [one.stored_range for one in slices]
    planes = allocate(shape, _smallest(min(low for low, _ in ranges), max(high for _, high in ranges)), first.path)
    for plane, one in zip(planes, slices, strict=True):
        plane[...] = read_pixels(one)
    intercept = int(first.intercept)
    return _shifted(planes, intercept, first.path) if intercept else planes


def _shifted(planes: NDArray[Any], intercept: int, path: Path) -> NDArray[Any]:
    # As if 0 were stored too, so that the sign of the type follows the intercept and not what a scan happens to hold.
    low, high = min(int(planes.min()), 0) + intercept, max(int(planes.max()), 0) + intercept
    dtype = _smallest(low, high, planes.itemsize)
    target = planes.view(dtype) if dtype.itemsize == planes.itemsize else allocate(planes.shape, dtype, path)
    for k, plane in enumerate(planes):
        target[k] = plane.astype(np.int64) + intercept
    return target


def _smallest(low: int, high: int, least_bytes: int = 1) -> np.dtype[Any]:
    for code in ("u1", "i1", "u2", "i2", "u4", "i4"):
        limits = np.iinfo(code)
        if limits.min <= low and high <= limits.max and np.dtype(code).itemsize >= least_bytes:
            return np.dtype(code)
    return np.dtype(np.int64)
