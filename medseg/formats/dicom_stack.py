"""From DICOM slices to the one regular grid that they form, or the reason why they do not.

Geometry comes from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone (PS3.3, C.7.6.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError
from medseg.formats.base import shown
from medseg.formats.dicom_slice import Slice, pixel_bytes
from medseg.geometry import Geometry
from medseg.study import Finding

_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0))
_PROJECTIONS = ("CR", "DX", "MG", "IO", "PX", "RF", "XA", "RG")  # shadows: no voxel has a place in space
_SAME_DIRECTION = 1e-3  # between direction cosines of two slices: at 300 mm from the origin 0.3 mm
_REGULAR = 0.02  # of the slice spacing: how far a slice may be from where a regular stack would have it


def stack(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], Geometry, tuple[Finding, ...]]:
    """Slices in order, where they lie, and what is doubtful about it.

    Raises:
        InputError: If their pixels are of a kind that is not read, or copies contradict one another.
        GeometryError: If they do not form one regular stack.
    """
    for one in slices:
        if one.trouble:
            raise InputError(f"{shown(one.path)}: {one.trouble}.")
    slices, findings = _without_copies(slices)
    _check_one_kind(slices)
    directions = np.mean([one.orientation_lps for one in slices], axis=0).reshape(2, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normal = np.cross(directions[0], directions[1])
    slices = tuple(sorted(slices, key=lambda one: float(np.dot(normal, one.position_lps))))
    first, step = _line(slices, normal)
    if len(slices) == 1:
        text = "A single slice; its SliceThickness was taken for the third axis."
        findings = (*findings, Finding("single-slice", text))
    between_rows, between_columns = np.mean([one.pixel_spacing_mm for one in slices], axis=0)
    affine = np.eye(4)
    columns = (directions[0] * between_columns, directions[1] * between_rows, step)
    affine[:3, :3] = _LPS_TO_RAS @ np.column_stack(columns)
    affine[:3, 3] = _LPS_TO_RAS @ first
    where = shown(slices[0].path)
    try:
        geometry = Geometry((slices[0].columns, slices[0].rows, len(slices)), affine)
    except GeometryError as error:
        raise GeometryError(f"{where}: {error}") from None
    if not geometry.is_orthogonal:
        degrees = math.degrees(math.acos(min(1.0, abs(float(normal @ step)) / math.hypot(*step))))
        raise GeometryError(
            f"{where}: the slices are tilted or sheared by {degrees:.1f}° against the direction in which they are"
            " stacked (gantry tilt); resample the series to an upright grid first."
        )
    return slices, geometry, findings


def _without_copies(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], tuple[Finding, ...]]:
    kept: dict[str, Slice] = {}
    dropped: list[Path] = []
    for number, one in enumerate(slices):
        first = kept.setdefault(one.instance or f"#{number}", one)
        if first is one:
            continue
        same_header = _identity(first) == _identity(one)
        if not same_header or pixel_bytes(first) != pixel_bytes(one):
            raise InputError(
                f"{shown(one.path)}: has the same instance UID as {shown(first.path.name)} and other content;"
                " leave one of them out."
            )
        dropped.append(one.path)
    if not dropped:
        return tuple(kept.values()), ()
    text = f"{len(dropped)} file(s) were copies of others and were left out, such as {shown(dropped[0].name)}."
    return tuple(kept.values()), (Finding("duplicates", text),)


def _identity(one: Slice) -> tuple[Any, ...]:
    return tuple(getattr(one, name) for name in one.__dataclass_fields__ if name != "path")


def _check_one_kind(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for one in slices:
        where = shown(one.path)
        if one.modality in _PROJECTIONS:
            raise GeometryError(f"{where}: a projection image ({one.modality}) has no place in space; give CT, MR, PT.")
        for value, name in (
            (one.position_lps, "ImagePositionPatient"),
            (one.orientation_lps, "ImageOrientationPatient"),
            (one.pixel_spacing_mm, "PixelSpacing"),
        ):
            if not value:
                text = f"has no usable {name}, so nobody knows where its voxels lie"
                raise GeometryError(f"{where}: {text}; leave it out or get the series with a complete header.")
        if min(one.pixel_spacing_mm) <= 0:
            raise GeometryError(f"{where}: PixelSpacing is {one.pixel_spacing_mm}; correct the header.")
        _check_directions(one)
        if (one.rows, one.columns) != (first.rows, first.columns):
            raise _mixed(one, first, "matrix sizes")
        if not np.allclose(one.orientation_lps, first.orientation_lps, atol=_SAME_DIRECTION, rtol=0):
            raise _mixed(one, first, "orientations")
        if not np.allclose(one.pixel_spacing_mm, first.pixel_spacing_mm, rtol=1e-4, atol=0):
            raise _mixed(one, first, "pixel spacings")
        if one.kind != first.kind:
            raise _mixed(one, first, "kinds (image type, kernel, echo, time or b-value)")


def _check_directions(one: Slice) -> None:
    row, column = np.reshape(one.orientation_lps, (2, 3))
    if not np.allclose((row @ row, column @ column, row @ column), (1, 1, 0), atol=_SAME_DIRECTION, rtol=0):
        text = "ImageOrientationPatient is not two perpendicular directions of length 1"
        raise GeometryError(f"{shown(one.path)}: {text}; correct the header.")


def _mixed(one: Slice, first: Slice, what: str) -> GeometryError:
    text = f"slices of several {what} in one series, unlike {shown(first.path.name)}"
    return GeometryError(f"{shown(one.path)}: {text}; put those that belong together into a folder of their own.")


def _line(slices: Sequence[Slice], normal: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first position and the step from slice to slice (LPS, mm) of the regular stack that fits best.

    Raises:
        GeometryError: If a slice is missing, is not where the stack would have it, or shares its place.
    """
    positions = np.array([one.position_lps for one in slices])
    if len(slices) == 1:
        thickness_mm = slices[0].thickness_mm
        if thickness_mm <= 0:
            text = "a single slice without SliceThickness has no third axis; give the whole series"
            raise GeometryError(f"{shown(slices[0].path)}: {text}.")
        return positions[0], normal * thickness_mm
    along = positions @ normal
    gaps = np.diff(along)
    typical = float(np.median(gaps))
    where = shown(slices[0].path.parent)
    if gaps.min() <= _REGULAR * max(typical, gaps.max() / len(gaps)):
        at = shown(slices[int(gaps.argmin()) + 1].path.name)
        text = f"several slices at one place, such as {at} (time points, echoes, or another series)"
        raise GeometryError(f"{where}: {text}; put those that form one volume into a folder of their own.")
    index = np.arange(len(slices))
    step, first = np.polyfit(index, positions, 1)
    apart = np.linalg.norm(first + np.outer(index, step) - positions, axis=1)
    if apart.max() > _REGULAR * typical:
        worst = int(np.abs(gaps - typical).argmax())
        text = (
            f"the slices are unevenly spaced, {gaps[worst]:.4g} mm after {shown(slices[worst].path.name)} where"
            f" {typical:.4g} mm is usual"
        )
        raise GeometryError(f"{where}: {text}; get the missing slices or resample the series to a regular grid.")
    return first, step
