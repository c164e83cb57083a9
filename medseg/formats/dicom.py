"""DICOM images: CT, MR, PET and their like, one plane a file, enhanced multi-frame, or Siemens' mosaics.

What forms one volume is decided by what the headers say of each plane (`dicom_group`), where it lies by positions and
orientations alone (`dicom_stack`). A volume is right, or named as repaired, or there is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats.base import Format, check_intensities, nothing, refused, shown
from medseg.formats.dicom_files import read_all
from medseg.formats.dicom_formats import is_image
from medseg.formats.dicom_group import by_contrast, objection, separated, without_copies
from medseg.formats.dicom_header import SkippedFileError
from medseg.formats.dicom_repair import on_grid
from medseg.formats.dicom_slice import FRAME_KEYS, Slice
from medseg.formats.dicom_stack import Stack, stack
from medseg.formats.dicom_values import read_values
from medseg.formats.dicom_volumes import frames
from medseg.opaque import identifying, opaque, secret
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, SourcePlane, Study
from medseg.volume import Volume

_NAME = "dicom"
_DAMAGED = "damaged-file"


@dataclass(frozen=True)
class _DicomSeries(Series):
    """A series that remembers its headers, so that `read` need not open every file a second time for them."""

    stacks: tuple[Stack, ...] = field(default=(), repr=False)
    options: ScanOptions = DEFAULT_OPTIONS
    error: MedsegError | None = None


def scan(paths: Sequence[Path], options: ScanOptions = DEFAULT_OPTIONS, done: Callable[[], None] = nothing) -> Study:
    """Read the header of every file and put together what belongs to one volume."""
    groups: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
    skipped: list[tuple[Path, str]] = []
    damaged: dict[Path, list[Finding]] = defaultdict(list)
    for path, planes in read_all(paths):
        if isinstance(planes, SkippedFileError):
            skipped.append((path, str(planes)))
            if planes.damaged:  # it may be a slice of any series beside it
                text = f"{shown(path.name)} was left out: {planes}."
                damaged[path.parent].append(Finding(_DAMAGED, text))
        else:
            patient, _, series_uid, frame_of_reference = planes[0].owner
            groups[patient, series_uid, frame_of_reference].extend(planes)
        done()
    found: list[Series] = []
    for slices_ in groups.values():
        beside = [finding for folder in sorted({one.path.parent for one in slices_}) for finding in damaged[folder]]
        found += _candidates(slices_, beside, options)
    return Study(tuple(found), tuple(skipped))


def read(series: Series, frame: int | None) -> Volume:
    """Read a volume (1, I, J, K) = (1, column, row, slice), each plane rescaled by its own slope and intercept.

    A plane whose pixels are damaged is treated as missing, and named.
    """
    series = _chosen(series, frame)
    chosen, options = series.stacks[frame or 0], series.options
    values, broken = read_values(chosen.planes)
    findings = tuple(one for one in series.findings if one.code != "frames" or frame is None)
    if broken:
        chosen, lost = _without(chosen, {n: str(error) for n, error in broken.items()}, options)
        values = values[[n for n in range(len(values)) if n not in broken]]
        findings += lost
    array = on_grid(values, chosen).transpose(2, 1, 0)
    planes = chosen.planes
    check_intensities(array, planes[0].path.parent if len(planes) > 1 else planes[0].path)
    doubts = tuple(dict.fromkeys((*findings, *chosen.findings)))
    return Volume(array[np.newaxis], chosen.geometry, planes[0].modality or None, doubts, _sources(chosen))


def planes_of(series: Series, frame: int | None) -> tuple[SourcePlane, ...]:
    """The planes that a volume of a candidate is made of, without their pixels.

    Raises:
        InputError: If there is no such frame, or the candidate cannot be read.
        GeometryError: If nobody knows where it lies.
    """
    return _sources(_chosen(series, frame).stacks[frame or 0])


FORMAT = Format(_NAME, is_image, scan, read)


def _chosen(series: Series, frame: int | None) -> _DicomSeries:
    """The series with its headers, if it can be read and has this frame."""
    if not isinstance(series, _DicomSeries):
        series = _again(series)
    if series.error is not None:
        raise series.error
    if frame is not None and not 0 <= frame < max(series.frames, 1):
        many = f"{series.frames}; choose --frame N with N from 0 to {series.frames - 1}"
        only = many if series.frames > 1 else "one; leave --frame out"
        raise InputError(f"{shown(series.paths[0])}: has no frame {frame}, only {only}.")
    return series


def _again(series: Series) -> _DicomSeries:
    """A series that was put together by hand, with its headers."""
    study = scan(series.paths)
    candidates = [one for one in study.readable or study.series if isinstance(one, _DicomSeries)]
    if not candidates:
        raise InputError(f"{shown(series.paths[0])}: {study.skipped[0][1]}.")
    if len(candidates) > 1:
        raise InputError(f"{shown(series.paths[0])}: {len(candidates)} volumes in one series; give one of them.")
    return candidates[0]


def _candidates(slices: Sequence[Slice], damaged: Sequence[Finding], options: ScanOptions) -> list[Series]:
    """The candidates among the planes of one series."""
    objections = {id(one): objection(one) for one in slices}
    placed = [one for one in slices if not objections[id(one)]]
    others = [one for one in slices if objections[id(one)]]
    lost = [
        Finding("slice-left-out", f"{shown(p.name)} was left out: {why}.") for p, why in _reasons(others, objections)
    ]
    if not placed or (others and options.strict):
        return [_refused(others, _no_place(others[0], objections[id(others[0])]), options, damaged)]
    try:
        placed, doubts = without_copies(placed, latest=options.prefer == "latest")
    except MedsegError as error:
        return [_refused(placed, error, options, damaged)]
    groups, names = separated(placed)
    if len(groups) > 1:
        text = f"One of {len(groups)} volumes of a series whose slices differ in {', '.join(names)}."
        doubts.append(Finding("series-separated", text))
    several_orientations = "orientation" in names
    doubts += [*lost, *damaged]
    found: list[Series] = []
    for group in groups:
        found += _volumes(group, doubts, options, aside="one of several orientations" if several_orientations else "")
    return found


def _volumes(group: Sequence[Slice], doubts: Sequence[Finding], options: ScanOptions, aside: str) -> list[Series]:
    """The candidates among planes of one kind: volumes on one grid are frames of one candidate."""
    stacks: list[Stack] = []
    doubts = list(doubts)
    try:
        for contrast in sorted(by_contrast(group), key=lambda part: tuple(v or 0.0 for v in part[0].contrast)):
            volumes, found = frames(contrast, latest=options.prefer == "latest")
            doubts += found
            stacks += [stack(volume, strict=options.strict) for volume in volumes]
    except MedsegError as error:
        for finding in (*doubts,):
            if finding.code in (_DAMAGED, "slice-left-out"):
                error = type(error)(f"{error} {finding.message}")
        return [_refused(group, error, options, doubts)]
    grids: list[list[Stack]] = []
    for one in stacks:
        same = next((grid for grid in grids if grid[0].geometry.matches(one.geometry)), None)
        if same is None:
            grids.append([one])
        else:
            same.append(one)
    return [_series(grid, doubts, options, aside) for grid in grids]


def _series(stacks: Sequence[Stack], doubts: Sequence[Finding], options: ScanOptions, aside: str) -> _DicomSeries:
    first = stacks[0]
    findings = [*first.findings, *doubts]
    if len(stacks) > 1:
        what = _told_apart_by(stacks)
        text = f"Holds {len(stacks)} volumes ({what}); the first is taken, another with --frame N, N from 0."
        findings.append(Finding("frames", text))
    plane, geometry = first.planes[0], first.geometry
    if plane.is_localizer:
        aside = "a localizer"
    paths = tuple(dict.fromkeys(one.path for stack_ in stacks for one in stack_.planes))
    return _DicomSeries(
        paths=paths,
        format=_NAME,
        findings=tuple(dict.fromkeys(findings)),
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        frames=len(stacks),
        modality=plane.modality or None,
        description=shown(plane.description) if options.keep_identifiers else "",
        owner=_owner(plane, options),
        identifying=_identifying(plane, options),
        aside=aside,
        stacks=tuple(stacks),
        options=options,
    )


def _told_apart_by(stacks: Sequence[Stack]) -> str:
    planes = [stack_.planes[0] for stack_ in stacks]
    names = [name for n, name in enumerate(("echo time", "b-value")) if len({one.contrast[n] for one in planes}) > 1]
    names += [name for n, name in enumerate(FRAME_KEYS) if len({one.keys[n] for one in planes}) > 1][:2]
    return ", ".join(names) or "order of acquisition"


def _refused(
    slices: Sequence[Slice], error: MedsegError, options: ScanOptions, doubts: Sequence[Finding]
) -> _DicomSeries:
    paths = tuple(sorted({one.path for one in slices}))
    return _DicomSeries(
        paths=paths,
        format=_NAME,
        readable=False,
        findings=refused(paths, _NAME, error, *doubts).findings,
        modality=slices[0].modality or None,
        owner=_owner(slices[0], options),
        identifying=_identifying(slices[0], options),
        aside="a localizer" if slices[0].is_localizer else "",
        options=options,
        error=error,
    )


def _no_place(one: Slice, why: str) -> MedsegError:
    return (InputError if one.trouble == why else GeometryError)(f"{shown(one.path)}: {why}.")


def _reasons(others: Sequence[Slice], objections: dict[int, str]) -> list[tuple[Path, str]]:
    return sorted({one.path: objections[id(one)] for one in others}.items())


def _owner(one: Slice, options: ScanOptions) -> tuple[str, ...]:
    """Patient, study and series."""
    return tuple(shown(value) if options.keep_identifiers else opaque(value, secret()) for value in one.owner[:3])


def _identifying(one: Slice, options: ScanOptions) -> tuple[str, ...]:
    name, patient, accession, birth_date = one.identity
    return () if options.keep_identifiers else identifying(name, (patient, accession), birth_date)


def _without(whole: Stack, broken: dict[int, str], options: ScanOptions) -> tuple[Stack, tuple[Finding, ...]]:
    """The stack without planes whose pixels are damaged, and a finding for each."""
    messages = list(broken.values())
    kept = [one for n, one in enumerate(whole.planes) if n not in broken]
    if not kept or options.strict:
        raise InputError(messages[0])
    lost = tuple(
        Finding(_DAMAGED, f"{shown(whole.planes[n].path.name)} was left out: its pixels cannot be decoded.")
        for n in broken
    )
    try:
        return stack(kept), lost
    except GeometryError as error:
        raise GeometryError(f"{error} {messages[0]}") from None


def _sources(stack_: Stack) -> tuple[SourcePlane, ...]:
    return tuple(
        SourcePlane(one.path, one.frame, one.instance, one.sop_class, stack_.plane_geometry(n))
        for n, one in enumerate(stack_.planes)
    )
