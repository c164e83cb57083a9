"""What tells apart DICOM planes of one kind at one place: volumes of several times, phases or directions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from medseg.errors import GeometryError
from medseg.formats.base import shown
from medseg.formats.dicom_group import age, copies_finding, older_finding
from medseg.formats.dicom_pixels import same_pixels
from medseg.formats.dicom_slice import FRAME_KEYS, Slice
from medseg.formats.dicom_stack import mean_directions, same_place_mm
from medseg.study import Finding

_ENOUGH_PLACES = 4  # fewer could run in an order by chance
_TIMES = ("TriggerTime", "FrameReferenceTime")  # measured, so that they differ a little from place to place


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
    if is_complete and (
        volumes := _by_keys(slices, places, most) or _by_times(places, most) or _by_order(places, most)
    ):
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
        newest = [max(place, key=age) for place in places]
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


def _by_times(places: Sequence[Sequence[Slice]], most: int) -> list[list[Slice]]:
    """Planes by measured time, if the times of a volume are closer to one another than to any other volume's."""
    for key in map(FRAME_KEYS.index, _TIMES):
        if any(one.keys[key] is None for place in places for one in place):
            continue
        ordered = [sorted(place, key=lambda one: one.keys[key] or ()) for place in places]
        times = np.array([[(one.keys[key] or (0.0,))[0] for one in place] for place in ordered])
        if np.ptp(times, axis=0).max() < (times[:, 1:].min(axis=0) - times[:, :-1].max(axis=0)).min():
            return [[place[n] for place in ordered] for n in range(most)]
    return []


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
