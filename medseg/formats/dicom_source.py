"""The DICOM images that a segmentation belongs to: where each of their slices lies, and how to refer to it.

Everything here comes from the files' headers, slice by slice; a grid that was repaired for the network plays no part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from medseg.errors import GeometryError, InputError
from medseg.formats.base import shown
from medseg.formats.dicom_elements import LPS_TO_RAS, macro, numbers, quiet, text_of, told
from medseg.formats.planes import Planes
from medseg.study import Finding, SourcePlane

_SAME_DIRECTION = 1e-3  # between direction cosines of two slices
_SAME_PLACE_MM = 1e-3
# What a derived object repeats of its source (type 1 and 2 of the patient and study modules), and its longest value.
_PATIENT_AND_STUDY = {
    "PatientName": 64,
    "PatientID": 64,
    "AccessionNumber": 16,
    "StudyID": 16,
    "ReferringPhysicianName": 64,
    "StudyDescription": 64,
}
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class Reference:
    """What names one source slice: its instance and, in a multi-frame image, its frame from 1."""

    sop_class: str
    instance: str
    frame: int | None = None

    def item(self) -> Dataset:
        """As an item of a sequence of references."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.sop_class
        item.ReferencedSOPInstanceUID = self.instance
        if self.frame is not None:
            item.ReferencedFrameNumber = self.frame
        return item


@dataclass(frozen=True, eq=False)
class Source:
    """The slices of a series.

    Attributes:
        planes: Where they lie, in ascending order along the normal.
        references: What names each of them, in the same order.
        identity: Patient and study, cleaned: every value that a derived object has to repeat.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID.
        thickness_mm: SliceThickness; the distance between slices where the source does not tell.
        findings: Doubts.
    """

    planes: Planes
    references: tuple[Reference, ...]
    identity: Dataset
    study: str
    series: str
    frame_of_reference: str
    thickness_mm: float
    findings: tuple[Finding, ...] = ()

    @property
    def instances(self) -> tuple[Reference, ...]:
        """Every file once."""
        return tuple(dict.fromkeys(Reference(one.sop_class, one.instance) for one in self.references))


@dataclass(frozen=True, eq=False)
class _Slice:
    reference: Reference
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: NDArray[np.float64]
    thickness_mm: float
    rows: int
    columns: int


def read_source(source: Sequence[Path | SourcePlane]) -> Source:
    """Read where the slices of a series lie and how to refer to them.

    Args:
        source: The series' files, in any order, of which copies and several frames at one place count once; or the
            planes of a volume, where a file holds those of several.

    Raises:
        InputError: If a file cannot be read, or lacks a UID without which nothing can refer to it.
        GeometryError: If the slices are not parallel, or no slice has a place in space.
    """
    frames: dict[Path, set[int]] = defaultdict(set)
    for one in source:
        frames[one if isinstance(one, Path) else one.path] |= set() if isinstance(one, Path) else {one.frame + 1}
    paths = list(frames)
    with quiet():
        headers: list[Dataset] = []
        slices: list[_Slice] = []
        for path, wanted in frames.items():
            with told(path, "the DICOM header"):
                headers.append(_header(path))
                found = _slices(path, headers[-1])
                slices += [one for one in found if not wanted or (one.reference.frame or 1) in wanted]
        findings = _unplaced(len(headers), slices)
        if not slices:
            where = shown(paths[0]) if paths else "The source"
            raise GeometryError(f"{where}: no slice says where it lies; a segmentation cannot be tied to it.")
        study, series = _common(paths, headers)
        with told(paths[0], "the DICOM header"):
            identity = _identity(headers[0])
        frame_of_reference = str(headers[0].get("FrameOfReferenceUID") or "")
    if not frame_of_reference:
        # The same for every result of a series, so that they fit one another.
        frame_of_reference = generate_uid(entropy_srcs=[series, "frame of reference"])
        text = "The source has no FrameOfReferenceUID; one that follows from its SeriesInstanceUID was taken."
        findings = (*findings, Finding("no-frame-of-reference", text))
    slices = _in_order(paths[0], slices)
    planes = _planes(slices)
    thickness_mm = float(np.median([one.thickness_mm for one in slices])) or planes.step_mm
    references = tuple(one.reference for one in slices)
    return Source(planes, references, identity, study, series, frame_of_reference, thickness_mm, findings)


def _header(path: Path) -> Dataset:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not str(header.get(keyword) or "").strip():
            text = f"has no {keyword}, so no DICOM object can refer to it; write NIfTI, or restore the UIDs"
            raise InputError(f"{shown(path)}: {text}.")
    return header


def _slices(path: Path, header: Dataset) -> Iterator[_Slice]:
    """The slices of a file that say where they lie."""
    sop_class, instance = str(header.SOPClassUID), str(header.SOPInstanceUID)
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames:
        shared = list(header.get("SharedFunctionalGroupsSequence") or [])
        for number, frame in enumerate(frames, start=1):
            groups = [frame, *shared]
            place, tilt = macro(groups, "PlanePositionSequence"), macro(groups, "PlaneOrientationSequence")
            measures = macro(groups, "PixelMeasuresSequence")
            yield from _slice(header, Reference(sop_class, instance, number), place, tilt, measures)
    elif int(header.get("NumberOfFrames") or 1) > 1:
        raise GeometryError(f"{shown(path)}: a multi-frame image whose frames have no place in space; write NIfTI.")
    elif "MOSAIC" in str(header.get("ImageType") or "").upper():
        text = "a mosaic holds all slices in one picture, to which no slice of labels can refer; write NIfTI"
        raise GeometryError(f"{shown(path)}: {text}.")
    else:
        yield from _slice(header, Reference(sop_class, instance), header, header, header)


def _slice(header: Dataset, reference: Reference, place: Dataset, tilt: Dataset, measures: Dataset) -> Iterator[_Slice]:
    position, directions = numbers(place, "ImagePositionPatient", 3), numbers(tilt, "ImageOrientationPatient", 6)
    spacing, thickness = numbers(measures, "PixelSpacing", 2), numbers(measures, "SliceThickness", 1)
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if position is not None and directions is not None and spacing is not None and spacing.min() > 0 and rows * columns:
        thickness_mm = 0.0 if thickness is None else float(thickness[0])
        yield _Slice(reference, position, directions.reshape(2, 3), spacing, thickness_mm, rows, columns)


def _unplaced(files: int, slices: Sequence[_Slice]) -> tuple[Finding, ...]:
    missing = files - len({one.reference.instance for one in slices})
    if missing <= 0:
        return ()
    text = f"{missing} source file(s) do not say where they lie, or are copies; nothing was written for them."
    return (Finding("source-slices-left-out", text),)


def _common(paths: Sequence[Path], headers: Sequence[Dataset]) -> tuple[str, str]:
    found = {(str(header.StudyInstanceUID), str(header.SeriesInstanceUID)) for header in headers}
    if len(found) > 1:
        raise InputError(
            f"{shown(paths[0].parent)}: the source files are of {len(found)} series or studies, of which no"
            " DICOM object can be the segmentation; write NIfTI, or give one series."
        )
    return found.pop()


def _in_order(path: Path, slices: Sequence[_Slice]) -> list[_Slice]:
    """By position along the normal; the first of those at one place."""
    first = slices[0]
    for one in slices:
        same = np.allclose(one.directions, first.directions, atol=_SAME_DIRECTION, rtol=0)
        same &= np.allclose(one.spacing, first.spacing, rtol=1e-3, atol=0)
        if not same or (one.rows, one.columns) != (first.rows, first.columns):
            text = "the source slices differ in orientation, matrix or pixel spacing; give those of one volume"
            raise GeometryError(f"{shown(path.parent)}: {text}.")
    normal = np.cross(*np.mean([one.directions for one in slices], axis=0))
    ordered: list[_Slice] = []
    for one in sorted(slices, key=lambda one: float(normal @ one.position)):
        if not ordered or normal @ (one.position - ordered[-1].position) > _SAME_PLACE_MM:
            ordered.append(one)
    return ordered


def _planes(slices: Sequence[_Slice]) -> Planes:
    directions = np.mean([one.directions for one in slices], axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # PixelSpacing is the distance between rows, then between columns (PS3.3, 10.7.1.3).
    between_rows, between_columns = np.mean([one.spacing for one in slices], axis=0)
    origins = np.array([one.position for one in slices]) @ LPS_TO_RAS
    along = np.array([one.position for one in slices]) @ np.cross(*directions)
    step_mm = float(np.median(np.diff(along))) if len(slices) > 1 else slices[0].thickness_mm or 1.0
    return Planes(
        origins_mm=origins,
        column_step_mm=LPS_TO_RAS @ directions[0] * between_columns,
        row_step_mm=LPS_TO_RAS @ directions[1] * between_rows,
        rows=slices[0].rows,
        columns=slices[0].columns,
        step_mm=step_mm,
    )


def _identity(header: Dataset) -> Dataset:
    """Patient and study as far as their values are legal; what the standard wants and the source lacks is empty."""
    identity = Dataset()
    identity.SpecificCharacterSet = "ISO_IR 192"  # the values were decoded, and are encoded anew as UTF-8
    for keyword, limit in _PATIENT_AND_STUDY.items():
        setattr(identity, keyword, text_of(header.get(keyword), limit))
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        value = text_of(header.get(keyword), 16)
        try:
            setattr(identity, keyword, value if kind(value) is not None else "")
        except ValueError:
            setattr(identity, keyword, "")
    sex = text_of(header.get("PatientSex"), 16)
    identity.PatientSex = sex if sex in _SEXES else ""
    if not identity.StudyDescription:
        del identity.StudyDescription  # type 3: absent rather than empty
    return identity
