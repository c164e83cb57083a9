"""Which DICOM planes form a volume: what separates them, and what tells apart those at one place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.formats.base import shown
from medseg.formats.dicom_pixels import same_pixels
from medseg.formats.dicom_slice import FRAME_KEYS, PROJECTIONS, Slice
from medseg.formats.dicom_stack import mean_directions, same_place_mm
from medseg.study import Finding

_SAME_DIRECTION = 2e-3  # between direction cosines of two planes: at 300 mm from the origin 0.6 mm
_UNIT = 1e-2  # how far a direction may be from length 1, and two from perpendicular
_SAME_SPACING = 5e-4
_SAME_ECHO = 5e-3
_ENOUGH_PLACES = 4  # fewer could run in an order by chance


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
            kept[key], old = (one, first) if _age(one) > _age(first) else (first, one)
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


def _age(one: Slice) -> tuple[Any, ...]:
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
    row, column = np.reshape(one.orientation_lps, (2, 3))
    if not np.allclose((row @ row, column @ column, row @ column), (1, 1, 0), atol=_UNIT, rtol=0):
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


def at_places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Planes by place along their normal, in order."""
    directions = mean_directions(slices)
    normal = np.cross(directions[0], directions[1])
    along = np.array([one.position_lps for one in slices]) @ normal
    order = np.argsort(along, kind="stable")
    tolerance = same_place_mm(along[order])
    places: list[list[Slice]] = []
    last = -np.inf
    for n in order:
        if along[n] - last > tolerance:
            places.append([])
            last = along[n]
        places[-1].append(slices[n])
    return places


def frames(slices: Sequence[Slice], *, latest: bool) -> tuple[list[list[Slice]], list[Finding]]:
    """Planes of one kind as volumes in which no two planes are at one place, in the order of time.

    Raises:
        GeometryError: If nothing tells apart planes at one place.
    """
    places = at_places(slices)
    most = max(map(len, places))
    if most == 1:
        return [list(slices)], []
    is_complete = min(map(len, places)) == most
    if is_complete and (volumes := _by_keys(slices, places, most) or _by_order(places, most)):
        return volumes, []
    kept, dropped = _distinct(places)
    if dropped:
        volumes, findings = frames(kept, latest=latest)
        return volumes, copies_finding(dropped) + findings
    if volumes := _stations(slices):
        text = "Stations overlap; where two slices are at one place, the one acquired first was taken."
        return volumes, [Finding("overlap", text)]
    if volumes := _by_keys(slices, places, most):
        return volumes, []
    if latest:
        newest = [max(place, key=_age) for place in places]
        return [newest], older_finding([one for place in places for one in place if one not in newest])
    at = next(place for place in places if len(place) > 1)[1]
    text = f"several slices at one place, such as {shown(at.path.name)}, and nothing in the headers tells them apart"
    raise GeometryError(
        f"{shown(at.path.parent)}: {text}; put those that form one volume into a folder of their own,"
        " or take the latest with --prefer latest."
    )


def _by_keys(slices: Sequence[Slice], places: Sequence[Sequence[Slice]], most: int) -> list[list[Slice]]:
    """Planes by the first key, or pair of keys, that gives each place a plane of each value; [] if none does."""
    varying = [n for n in range(len(FRAME_KEYS)) if len({one.keys[n] for one in slices}) > 1]
    for names in [(n,) for n in varying] + [(n, m) for n in varying for m in varying if n < m]:
        groups: dict[tuple[Any, ...], list[Slice]] = defaultdict(list)
        for one in slices:
            groups[tuple(one.keys[n] or () for n in names)].append(one)
        is_one_each = all(
            len({tuple(one.keys[n] or () for n in names) for one in place}) == len(place) for place in places
        )
        if len(groups) == most and is_one_each:
            directions = [FRAME_KEYS[n] == "DiffusionGradientOrientation" for n in names]
            return sorted(groups.values(), key=lambda group: _order(group, names, directions))
    return []


def _order(group: Sequence[Slice], names: Sequence[int], directions: Sequence[bool]) -> tuple[Any, ...]:
    """By value; directions have no order but that in which they were acquired."""
    keys = tuple(() if skip else group[0].keys[n] or () for n, skip in zip(names, directions, strict=True))
    return (*keys, min((one.number or 0 for one in group), default=0), group[0].acquired)


def _by_order(places: Sequence[Sequence[Slice]], most: int) -> list[list[Slice]]:
    """Planes by time of acquisition or InstanceNumber, if these run place by place or volume by volume; else []."""
    if len(places) < _ENOUGH_PLACES:
        return []
    for key in (lambda one: one.acquired[:2], lambda one: one.acquired[2:4], lambda one: (one.number,)):
        ordered = [sorted(place, key=key) for place in places]
        values = [[key(one) for one in place] for place in ordered]
        flat = [value for place in values for value in place]
        if any(part in (None, "") for value in flat for part in value[-1:]) or len(set(flat)) < len(flat):
            continue
        volumes = [[place[n] for place in ordered] for n in range(most)]
        is_steady = all(_is_steady([key(one) for one in volume]) for volume in volumes)
        by_volume = all(max(map(key, a)) < min(map(key, b)) for a, b in pairwise(volumes))
        by_place = all(a[-1] < b[0] for a, b in pairwise(sorted(values)))
        if is_steady and (by_volume or by_place):
            return volumes
    return []


def _is_steady(values: Sequence[Any]) -> bool:
    return list(values) in (sorted(values), sorted(values, reverse=True))


def _distinct(places: Iterable[Sequence[Slice]]) -> tuple[list[Slice], list[Slice]]:
    """Planes without those that repeat the pixels of another at the same place, and the latter."""
    kept: list[Slice] = []
    dropped: list[Slice] = []
    for place in places:
        here: list[Slice] = []
        for one in place:
            (dropped if any(same_pixels(one, other) for other in here) else here).append(one)
        kept += here
    return kept, dropped


def _stations(slices: Sequence[Slice]) -> list[list[Slice]]:
    """One volume of stations that overlap by less than half, told apart by AcquisitionNumber; [] if there are none."""
    number = FRAME_KEYS.index("AcquisitionNumber")
    stations: dict[Any, list[Slice]] = defaultdict(list)
    for one in slices:
        stations[one.keys[number] or ()].append(one)
    places = at_places(slices)
    index = {id(one): n for n, place in enumerate(places) for one in place}
    shared = Counter(index[id(one)] for one in slices)
    overlapping = {n for n, count in shared.items() if count > 1}
    for members in stations.values():
        own = {index[id(one)] for one in members}
        if len(own) < len(members) or len(own & overlapping) > len(own) / 2:
            return []
    if len(stations) < 2:
        return []
    first: dict[int, Slice] = {}
    for key in sorted(stations):
        for one in stations[key]:
            first.setdefault(index[id(one)], one)
    return [[first[n] for n in sorted(first)]]
