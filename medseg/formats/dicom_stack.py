"""From DICOM planes of one kind to the regular grid that they form, or the reason why they do not.

Geometry comes from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone (PS3.3, C.7.6.2).

A plane may lie up to `JITTER` of the slice spacing (and `JITTER_IN_PLANE` of a pixel sideways) from where a regular
stack would have it: the stack is then the best fit through all planes. What lies further off is interpolated onto a
regular grid, with a finding, or refused where nothing may be changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.formats.base import shown
from medseg.formats.dicom_elements import LPS_TO_RAS
from medseg.formats.dicom_slice import Slice
from medseg.geometry import Geometry
from medseg.study import Finding

_Floats: TypeAlias = NDArray[np.float64]

JITTER = 0.05
JITTER_IN_PLANE = 0.25
_NOTED = 0.01  # jitter beyond this share of the slice spacing is told
_SAME_PLACE = 0.02  # of the usual gap: planes that are closer are at one place
_MOST_INVENTED = 3  # a grid may have this many times the planes that there are
_VARYING = (3, 0.25)  # so many wide gaps, and so large a share, are no missing slices but another spacing
_NAMED = 5  # gaps that a finding names before it only counts


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in order, and the regular grid that they are brought onto.

    Attributes:
        planes: As they lie along the normal.
        geometry: The grid.
        along: Where each plane lies on the third axis of the grid, in voxels.
        aside: How far each plane lies off the grid along (I, J), in voxels; None if no plane does.
        findings: What is doubtful about it, and what was repaired.
    """

    planes: tuple[Slice, ...]
    geometry: Geometry
    along: _Floats
    aside: _Floats | None
    findings: tuple[Finding, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the planes are the planes of the grid, one by one."""
        return self.aside is None and np.array_equal(self.along, np.arange(self.geometry.shape[2]))

    def plane_geometry(self, n: int) -> Geometry:
        """Where the voxels (I, J, 1) of plane n lie, by its own header; the third axis is the grid's."""
        one = self.planes[n]
        affine = self.geometry.affine.copy()
        row, column = np.reshape(one.orientation_lps, (2, 3))
        between_rows, between_columns = one.pixel_spacing_mm
        affine[:3, 0], affine[:3, 1] = LPS_TO_RAS @ row * between_columns, LPS_TO_RAS @ column * between_rows
        affine[:3, 3] = LPS_TO_RAS @ one.position_lps
        return Geometry((one.columns, one.rows, 1), affine)


def stack(slices: Sequence[Slice], *, strict: bool = False) -> Stack:
    """Put planes in order and find their grid.

    Args:
        slices: Of one kind, matrix, orientation and spacing, each at a place of its own.
        strict: Whether to refuse what would have to be interpolated.

    Raises:
        GeometryError: If they form no volume, or no regular one and `strict` is set.
    """
    directions = mean_directions(slices)
    normal = np.cross(directions[0], directions[1])
    slices = tuple(sorted(slices, key=lambda one: float(np.dot(normal, one.position_lps))))
    positions = np.array([one.position_lps for one in slices])
    between_rows, between_columns = np.mean([one.pixel_spacing_mm for one in slices], axis=0)
    pixels_mm = np.array((between_columns, between_rows))
    if len(slices) == 1:
        line, findings = _single(slices[0], normal)
        index, planes = np.zeros(1), 1
    else:
        index, findings = _places(slices, positions @ normal)
        line = _line(positions, index)
        planes = math.floor(index[-1] + 1e-6) + 1
    first, step = line
    off = positions - (first + np.outer(index, step))
    aside = off @ directions.T / pixels_mm
    is_aside = len(slices) > 1 and bool(np.abs(aside).max() > JITTER_IN_PLANE)
    if is_aside:
        first, step = _robust_line(positions, index)
        off = positions - (first + np.outer(index, step))
        aside = off @ directions.T / pixels_mm
        text = f"Slices lie up to {np.abs(off @ directions.T).max():.3g} mm sideways of a straight stack; shifted."
        findings = (*findings, Finding("drift", text))
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack((directions[0] * between_columns, directions[1] * between_rows, step))
    affine[:3, 3] = LPS_TO_RAS @ first
    where = shown(slices[0].path)
    try:
        geometry = Geometry((slices[0].columns, slices[0].rows, planes), affine)
    except GeometryError as error:
        raise GeometryError(f"{where}: {error}") from None
    repaired = [finding for finding in findings if finding.code in REPAIRS]
    if strict and repaired:
        reasons = " ".join(finding.message for finding in repaired)
        raise GeometryError(f"{shown(slices[0].path.parent)}: not a regular stack, and --geometry strict: {reasons}")
    if not geometry.is_orthogonal:
        degrees = math.degrees(math.acos(min(1.0, abs(float(normal @ step)) / math.hypot(*step))))
        text = f"The slices are tilted by {degrees:.1f}° against the direction in which they are stacked (gantry tilt)."
        findings = (*findings, Finding("tilt", text))
    return Stack(slices, geometry, index, aside if is_aside else None, findings)


# Findings that stand for values which no scanner measured.
REPAIRS = ("missing-slices", "varying-spacing", "drift")


def mean_directions(slices: Sequence[Slice]) -> _Floats:
    """The mean directions of rows and columns (2, 3), perpendicular and of length 1."""
    mean = np.mean([one.orientation_lps for one in slices], axis=0).reshape(2, 3)
    left, _, right = np.linalg.svd(mean, full_matrices=False)
    return np.asarray(left @ right)


def same_place_mm(along: _Floats) -> float:
    """Planes whose positions (sorted) differ by less are at one place."""
    gaps = np.diff(along)
    apart = gaps[gaps > 1e-3]
    return max(float(np.median(apart)) * _SAME_PLACE, 1e-3) if len(apart) else 1e-3


def _single(one: Slice, normal: _Floats) -> tuple[tuple[_Floats, _Floats], tuple[Finding, ...]]:
    if one.thickness_mm <= 0:
        text = "a single slice without SliceThickness has no third axis; give the whole series"
        raise GeometryError(f"{shown(one.path)}: {text}.")
    finding = Finding("single-slice", "A single slice; its SliceThickness was taken for the third axis.")
    return (np.array(one.position_lps), normal * one.thickness_mm), (finding,)


def _line(positions: _Floats, index: _Floats) -> tuple[_Floats, _Floats]:
    """The position of index 0 and the step from index to index (LPS, mm) of the line that fits best."""
    step, first = np.polyfit(index, positions, 1)
    return first, step


def _robust_line(positions: _Floats, index: _Floats) -> tuple[_Floats, _Floats]:
    """The same by medians, so that a few planes that lie aside do not draw the others with them."""
    step = np.median(np.diff(positions, axis=0) / np.diff(index)[:, np.newaxis], axis=0)
    return np.median(positions - np.outer(index, step), axis=0), step


def _places(slices: Sequence[Slice], along: _Floats) -> tuple[_Floats, tuple[Finding, ...]]:
    """Where each plane lies on a regular third axis, in voxels, and what is to be said about it."""
    gaps = np.diff(along)
    where = shown(slices[0].path.parent)
    if gaps.min() <= same_place_mm(along):
        at = shown(slices[int(gaps.argmin()) + 1].path.name)
        text = f"several slices at one place, such as {at}, and nothing in the headers tells them apart"
        raise GeometryError(f"{where}: {text}; put those that form one volume into a folder of their own.")
    index, step_mm = _regular(along, gaps)
    if index is not None:
        return index, _gap_findings(slices, index, gaps, along, step_mm)
    step_mm = _usual(gaps)
    planes = round((along[-1] - along[0]) / step_mm) + 1
    if planes > _MOST_INVENTED * len(slices):
        raise GeometryError(f"{where}: {_too_sparse(len(slices), planes, step_mm)}")
    step_mm = float(along[-1] - along[0]) / (planes - 1)
    text = (
        f"The distance between slices varies from {gaps.min():.4g} to {gaps.max():.4g} mm;"
        f" interpolated to {step_mm:.4g} mm."
    )
    return (along - along[0]) / step_mm, (Finding("varying-spacing", text),)


def _too_sparse(slices: int, planes: int, step_mm: float) -> str:
    return (
        f"the slices are so far apart that {slices} would have to become {planes} at {step_mm:.4g} mm;"
        " get the missing slices, or give the parts one by one."
    )


def _regular(along: _Floats, gaps: _Floats) -> tuple[_Floats | None, float]:
    """Whole-numbered places on a regular axis, and its spacing, if all planes are close to such places.

    The axis may have places without a plane. None if there is no such axis.
    """
    step_mm = float(np.median(gaps[gaps <= gaps.min() * (1 + 4 * JITTER)]))
    counts = np.maximum(np.rint(gaps / step_mm), 1)
    for _ in range(3):  # the spacing from all planes, then the places again, until they agree
        index = np.concatenate(([0.0], np.cumsum(counts)))
        step_mm, first = np.polyfit(index, along, 1)
        if np.array_equal(again := np.maximum(np.rint(gaps / step_mm), 1), counts):
            break
        counts = again
    off = np.abs(along - first - index * step_mm).max()
    sparse = index[-1] + 1 > _MOST_INVENTED * len(along)
    return (index if off <= JITTER * step_mm and not sparse else None), float(step_mm)


def _usual(gaps: _Floats) -> float:
    """The spacing of the grid for planes whose distances vary: the mean, or the closer one where two are mixed."""
    if gaps.max() < 1.8 * gaps.min():
        return float(gaps.mean())
    return float(gaps[gaps >= 0.45 * np.median(gaps)].min())


def _gap_findings(
    slices: Sequence[Slice], index: _Floats, gaps: _Floats, along: _Floats, step_mm: float
) -> tuple[Finding, ...]:
    findings: tuple[Finding, ...] = ()
    counts = np.diff(index)
    wide = np.flatnonzero(counts > 1)
    if len(wide) >= _VARYING[0] and len(wide) > _VARYING[1] * len(gaps):
        text = f"The distance between slices varies from {gaps.min():.4g} to {gaps.max():.4g} mm;"
        findings = (Finding("varying-spacing", f"{text} interpolated to {step_mm:.4g} mm."),)
    elif len(wide):
        missing = int(counts[wide].sum()) - len(wide)
        places = "; ".join(
            f"{gaps[k]:.4g} mm after {shown(slices[k].path.name)}{_frame(slices[k])}" for k in wide[:_NAMED]
        )
        more = f"; and {len(wide) - _NAMED} more" if len(wide) > _NAMED else ""
        text = f"{missing} slice(s) missing, {places}{more}, where {step_mm:.4g} mm is usual; interpolated."
        findings = (Finding("missing-slices", text),)
    off = np.abs(along - np.polyval(np.polyfit(index, along, 1), index)).max()
    if off > _NOTED * step_mm:
        text = f"Slices lie up to {off:.2g} mm off a regular stack of {step_mm:.4g} mm; the best fit was taken."
        findings = (*findings, Finding("jitter", text))
    return findings


def _frame(one: Slice) -> str:
    return f" frame {one.frame}" if one.stored.frames > 1 else ""
