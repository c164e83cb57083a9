"""Which DICOM planes may form a volume: copies are left out, and what differs in kind is separated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from medseg.errors import InputError
from medseg.formats.base import shown
from medseg.formats.dicom_pixels import same_pixels
from medseg.formats.dicom_slice import PROJECTIONS, Slice
from medseg.study import Finding

_SAME_DIRECTION = 2e-3  # between direction cosines of two planes: at 300 mm from the origin 0.6 mm
_UNIT = 1e-2  # how far a direction may be from length 1, and two from perpendicular
_SAME_SPACING = 5e-4
_SAME_ECHO = 5e-3


def without_copies(slices: Sequence[Slice], *, latest: bool) -> tuple[list[Slice], list[Finding]]:
    """Planes with one of each instance UID and frame, and a finding on those left out.

    Raises:
        InputError: If files of one UID contradict one another, and not the latest is to be taken.
    """
    kept: dict[Hashable, Slice] = {}
    dropped: list[Slice] = []
    older: list[Slice] = []
    for count, one in enumerate(slices):
        key = (one.instance, one.frame, one.corner) if one.instance else count
        first = kept.setdefault(key, one)
        if first is one:
            continue
        if _is_copy(first, one):
            dropped.append(one)
        elif latest:
            kept[key], old = (one, first) if age(one) > age(first) else (first, one)
            older.append(old)
        else:
            raise InputError(
                f"{shown(one.path)}: has the same instance UID as {shown(first.path.name)} and other content;"
                " leave one of them out, or take the latest with --prefer latest."
            )
    return list(kept.values()), copies_finding(dropped) + older_finding(older)


def copies_finding(dropped: Sequence[Slice]) -> list[Finding]:
    """What to say about copies that were left out."""
    files = sorted({one.path for one in dropped})
    if not files:
        return []
    text = f"{len(files)} file(s) were copies of others and were left out, such as {shown(files[0].name)}."
    return [Finding("duplicates", text)]


def older_finding(older: Sequence[Slice]) -> list[Finding]:
    """What to say about planes that gave way to later ones."""
    if not older:
        return []
    text = f"{len(older)} slice(s) contradicted later ones and were left out, such as {shown(older[0].path.name)}."
    return [Finding("older-left-out", text)]


def _is_copy(first: Slice, other: Slice) -> bool:
    ignored = ("path", "stored", "acquired", "description", "identity")
    names = [name for name in first.__dataclass_fields__ if name not in ignored]
    return all(getattr(first, name) == getattr(other, name) for name in names) and same_pixels(first, other)


def age(one: Slice) -> tuple[Any, ...]:
    """What sorts planes by the time at which they were made."""
    return (*one.acquired, one.path.stat().st_mtime)


def objection(one: Slice) -> str:
    """Why a plane has no known place or no usable pixels; "" if it has."""
    if one.modality in PROJECTIONS:
        return f"a projection image ({one.modality}) has no place in space; give CT, MR, PT"
    if one.modality == "CT" and one.is_localizer:
        return "a localizer (a projection) has no place in space; give the scan itself"
    return one.trouble or _unplaced(one)


def _unplaced(one: Slice) -> str:
    places = (one.position_lps, one.orientation_lps, one.pixel_spacing_mm)
    names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    missing = [name for name, value in zip(names, places, strict=True) if not value]
    if missing:
        text = f"has no usable {missing[0]}, so nobody knows where its voxels lie"
        return f"{text}; leave it out or get the series with a complete header"
    if min(one.pixel_spacing_mm) <= 0:
        return f"PixelSpacing is {one.pixel_spacing_mm}; correct the header"
    row, column = one.orientation_lps[:3], one.orientation_lps[3:]
    pairs = ((row, row, 1), (column, column, 1), (row, column, 0))
    if any(abs(sum(a * b for a, b in zip(one, other, strict=True)) - wanted) > _UNIT for one, other, wanted in pairs):
        return "ImageOrientationPatient is not two perpendicular directions of length 1; correct the header"
    return ""


SEPARATES: tuple[tuple[str, Callable[[Sequence[Slice]], list[list[Slice]]]], ...] = (
    ("orientation", lambda slices: _clusters(slices, lambda one: one.orientation_lps, _SAME_DIRECTION, 0)),
    ("matrix", lambda slices: _equal(slices, lambda one: (one.rows, one.columns))),
    ("pixel spacing", lambda slices: _clusters(slices, lambda one: one.pixel_spacing_mm, 0, _SAME_SPACING)),
    ("modality", lambda slices: _equal(slices, lambda one: one.kind[0])),
    ("image type", lambda slices: _equal(slices, lambda one: (one.kind[1], one.kind[6]))),
    ("kernel", lambda slices: _equal(slices, lambda one: one.kind[2])),
    ("photometric interpretation", lambda slices: _equal(slices, lambda one: one.kind[3])),
    ("unit", lambda slices: _equal(slices, lambda one: one.kind[4:6])),
)


def separated(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[str]]:
    """Planes by all that a volume has in common, and the names of what separated them."""
    groups, names = [list(slices)], []
    for name, separate in SEPARATES:
        parts = [part for group in groups for part in separate(group)]
        if len(parts) > len(groups):
            names.append(name)
        groups = parts
    return groups, names


def by_contrast(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Planes by echo time and b-value."""
    groups = [list(slices)]
    for n in range(2):
        groups = [
            part
            for group in groups
            for part in _clusters(group, lambda one: _number(one.contrast[n]), 1e-6, _SAME_ECHO)  # noqa: B023
        ]
    return groups


def _number(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _equal(slices: Sequence[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        groups[key(one)].append(one)
    return list(groups.values())


def _clusters(
    slices: Sequence[Slice], key: Callable[[Slice], tuple[float, ...]], absolute: float, relative: float
) -> list[list[Slice]]:
    """Planes whose numbers are those of a cluster's first plane, within a tolerance."""
    groups: list[tuple[tuple[float, ...], list[Slice]]] = []
    known: dict[tuple[float, ...], list[Slice]] = {}
    for one in slices:
        value = key(one)
        if value not in known:
            known[value] = next((group for first, group in groups if _near(value, first, absolute, relative)), [])
            if not known[value]:
                groups.append((value, known[value]))
        known[value].append(one)
    return [group for _, group in groups]


def _near(value: tuple[float, ...], other: tuple[float, ...], absolute: float, relative: float) -> bool:
    return len(value) == len(other) and all(
        abs(a - b) <= absolute + relative * abs(b) for a, b in zip(value, other, strict=True)
    )
