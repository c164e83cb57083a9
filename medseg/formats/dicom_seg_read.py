"""DICOM Segmentation objects, decoded frame by frame on pydicom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from medseg.errors import GeometryError, InputError
from medseg.formats.base import allocate
from medseg.formats.dicom_derived import check_overlap, code_of, label_set
from medseg.formats.dicom_elements import LPS_TO_RAS, macro, numbers, quiet, text_of, told
from medseg.formats.planes import Labels, Planes
from medseg.labels import LabelSet
from medseg.study import Finding

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3
_MOST_RATIO = 1000  # voxels to a byte of the file, above a GiB that every file may have
_FREE_BYTES = 2**30
_OUR_NUMBER = re.compile(r"Label (\d{1,5})")


@dataclass(frozen=True, eq=False)
class Outline:
    """What the header of a SEG says.

    Attributes:
        planes: Every place at which there is a frame.
        plane_of_frame: Number of the plane of each frame.
        segment_of_frame: Number of the segment of each frame; 0 where pixels say it (LABELMAP).
        index_of_segment: The label that a segment becomes.
        names: Names, codes and colours of the labels.
        instances: SOPInstanceUIDs of the images that it refers to.
        frame_of_reference: Its FrameOfReferenceUID.
    """

    planes: Planes
    plane_of_frame: tuple[int, ...]
    segment_of_frame: tuple[int, ...]
    index_of_segment: dict[int, int]
    names: LabelSet
    instances: frozenset[str]
    frame_of_reference: str


@dataclass(frozen=True, eq=False)
class Frames:
    """The labels of a SEG.

    Attributes:
        labels: (N, rows, columns).
        planes: Where they lie; places without a frame are not among them.
        names: What the labels mean.
        outline: All that the header says.
        findings: Doubts.
    """

    labels: Labels
    planes: Planes
    names: LabelSet
    outline: Outline
    findings: tuple[Finding, ...] = ()


def read_outline(path: Path) -> Outline:
    """Read the header alone.

    Raises:
        InputError: If the file is damaged or describes no segment.
        GeometryError: If frames have no place in space, or are not parallel.
    """
    with quiet(), told(path, "the DICOM segmentation"):
        return _outline(pydicom.dcmread(path, stop_before_pixels=True, force=True))


def read_frames(path: Path, names: tuple[str, ...] = ()) -> Frames:
    """Read labels.

    Args:
        path: The file.
        names: The segments to read; all where none is named.

    Raises:
        InputError: If the file is damaged, or its pixels cannot be decoded.
        GeometryError: If frames have no place in space, are not parallel, or segments share voxels.
        ConfigError: If a name is not in the file.
    """
    with quiet(), told(path, "the DICOM segmentation"):
        data = pydicom.dcmread(path, force=True)
        outline = _outline(data)
        kept = outline.names.subset(names) if names else outline.names
        _check_room(data, path.stat().st_size)
        labels = allocate(outline.planes.shape, np.min_scalar_type(max(outline.names.indices)), path)
        labels[...] = 0
        wanted = {s: index for s, index in outline.index_of_segment.items() if index in kept.indices}
        numbers_ = zip(outline.plane_of_frame, outline.segment_of_frame, strict=True)
        threshold = _threshold(data)
        for (plane, segment), pixels in zip(numbers_, _pictures(data), strict=True):
            if segment == 0:
                labels[plane] = _relabelled(pixels, wanted)
            elif segment in wanted:
                mask = pixels > threshold
                check_overlap(labels[plane], mask, wanted[segment], outline.names, path)
                labels[plane][mask] = wanted[segment]
    findings: tuple[Finding, ...] = ()
    if threshold > 0:
        findings = (Finding("fractional", "A fractional segmentation; what is above one half was taken."),)
    return Frames(labels, outline.planes, kept, outline, findings)


def _pictures(data: Dataset) -> Iterator[NDArray[Any]]:
    """The pixels (rows, columns) of each frame."""
    if int(data.BitsAllocated) != 1 or data.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(data, raw=True)
        return
    # Frames follow one another bit by bit; pydicom takes none that begin within a byte one by one.
    rows, columns = int(data.Rows), int(data.Columns)
    content = np.frombuffer(data.PixelData, dtype=np.uint8)
    for start in range(0, len(data.PerFrameFunctionalGroupsSequence) * rows * columns, rows * columns):
        bits = np.unpackbits(content[start // 8 : -(-(start + rows * columns) // 8)], bitorder="little")
        yield bits[start % 8 :][: rows * columns].reshape(rows, columns)


def _check_room(data: Dataset, file_bytes: int) -> None:
    """Refuse a small file that promises very many voxels, before memory is taken for them."""
    needed = len(data.PerFrameFunctionalGroupsSequence) * int(data.Rows) * int(data.Columns)
    if needed > max(_MOST_RATIO * file_bytes, _FREE_BYTES):
        raise InputError("It promises more voxels than a file of its size can hold; get the file again.")


def _outline(data: Dataset) -> Outline:
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])
    groups = [[frame, *shared] for frame in data.get("PerFrameFunctionalGroupsSequence") or []]
    if not groups or not data.get("SegmentSequence"):
        raise InputError("A DICOM segmentation without frames or segments; get the file again.")
    positions = [numbers(macro(g, "PlanePositionSequence"), "ImagePositionPatient", 3) for g in groups]
    directions = [numbers(macro(g, "PlaneOrientationSequence"), "ImageOrientationPatient", 6) for g in groups]
    spacings = [numbers(macro(g, "PixelMeasuresSequence"), "PixelSpacing", 2) for g in groups]
    if any(value is None for values in (positions, directions, spacings) for value in values):
        raise GeometryError("A frame does not say where it lies; get the file from where it was made.")
    planes, plane_of_frame = _planes(
        data, np.array(positions), np.array(directions), np.array(spacings), macro(groups[0], "PixelMeasuresSequence")
    )
    is_labelmap = str(data.get("SegmentationType")) == "LABELMAP"
    segments = tuple(
        0 if is_labelmap else int(macro(g, "SegmentIdentificationSequence").ReferencedSegmentNumber) for g in groups
    )
    index_of_segment, names = _segments(data)
    return Outline(
        planes,
        plane_of_frame,
        segments,
        index_of_segment,
        names,
        _instances(data),
        str(data.get("FrameOfReferenceUID") or ""),
    )


def _planes(
    data: Dataset,
    positions: NDArray[np.float64],
    directions: NDArray[np.float64],
    spacings: NDArray[np.float64],
    measures: Dataset,
) -> tuple[Planes, tuple[int, ...]]:
    """The distinct places of frames in order, and which each frame has."""
    spread = np.ptp(directions, axis=0).max(), np.ptp(spacings, axis=0).max()
    if spread[0] > _SAME_DIRECTION or spread[1] > _SAME_DIRECTION:
        raise GeometryError("The frames of the segmentation are not parallel or differ in spacing; split the file.")
    column, row = (d / np.linalg.norm(d) for d in directions.mean(axis=0).reshape(2, 3))
    between_rows, between_columns = spacings.mean(axis=0)
    along = positions @ np.cross(column, row)
    order = np.argsort(along, kind="stable")
    is_new = np.concatenate(([True], np.diff(along[order]) > _SAME_PLACE_MM))
    plane_of_frame = np.empty(len(order), dtype=np.intp)
    plane_of_frame[order] = np.cumsum(is_new) - 1
    firsts = order[is_new]
    if np.abs(positions - positions[firsts][plane_of_frame]).max() > 2 * _SAME_PLACE_MM:
        raise GeometryError("Frames of the segmentation at one place are shifted against one another; split the file.")
    planes = Planes(
        origins_mm=positions[firsts] @ LPS_TO_RAS,
        column_step_mm=LPS_TO_RAS @ column * between_columns,
        row_step_mm=LPS_TO_RAS @ row * between_rows,
        rows=int(data.Rows),
        columns=int(data.Columns),
        step_mm=_step_mm(np.diff(along[firsts]), measures),
    )
    return planes, tuple(plane_of_frame.tolist())


def _step_mm(gaps: NDArray[np.float64], measures: Dataset) -> float:
    """The distance between slices: as stated if the frames' positions bear it out, or else their smallest distance.

    Frames without a label are often left out, so positions alone may be too far apart; and what is stated may be wrong.
    """
    stated = [numbers(measures, keyword, 1) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    between, thickness = (0.0 if value is None else abs(float(value[0])) for value in stated)
    if not len(gaps):
        return between or thickness or 1.0
    smallest = float(gaps.min())
    if between <= 0:
        return smallest
    fits = np.abs(gaps / between - np.rint(gaps / between)).max() * between <= max(0.02 * between, _SAME_PLACE_MM)
    # Three frames or more at the same larger distance: nobody labels every second slice.
    all_alike = len(gaps) > 1 and np.allclose(gaps, smallest, rtol=0.02)
    return between if fits and smallest >= 0.9 * between and not (all_alike and smallest > 1.5 * between) else smallest


def _segments(data: Dataset) -> tuple[dict[int, int], LabelSet]:
    described = [one for one in data.SegmentSequence if not _is_background(one)]
    if not described:
        raise InputError("The segmentation describes no segment but the background.")
    segments = [int(one.SegmentNumber) for one in described]
    ours = [_OUR_NUMBER.fullmatch(str(one.get("SegmentDescription") or "")) for one in described]
    indices = [int(match[1]) if match else 0 for match in ours]
    if min(indices) < 1 or len(set(indices)) < len(indices):
        indices = segments
    if min(indices) < 1 or len(set(indices)) < len(indices):
        indices = list(range(1, len(segments) + 1))
    names = [text_of(one.get("SegmentLabel"), 64) or f"segment {n}" for one, n in zip(described, segments, strict=True)]
    codes = [code_of(one.get("SegmentedPropertyTypeCodeSequence")) for one in described]
    found = [(i, name, code, None) for i, name, code in zip(indices, names, codes, strict=True)]
    return dict(zip(segments, indices, strict=True)), label_set(found)


def _is_background(segment: Dataset) -> bool:
    code = code_of(segment.get("SegmentedPropertyTypeCodeSequence"))
    return int(segment.SegmentNumber) == 0 or (code is not None and (code.scheme, code.value) == ("DCM", "125040"))


def _instances(data: Dataset) -> frozenset[str]:
    return frozenset(
        str(instance.ReferencedSOPInstanceUID)
        for series in data.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedInstanceSequence") or []
    )


def _threshold(data: Dataset) -> float:
    is_fractional = str(data.get("SegmentationType")) == "FRACTIONAL"
    return float(data.get("MaximumFractionalValue") or 255) / 2 if is_fractional else 0.0


def _relabelled(pixels: NDArray[Any], index_of_segment: dict[int, int]) -> NDArray[Any]:
    size = max(int(pixels.max()), *index_of_segment) + 1
    table = np.zeros(size, dtype=np.min_scalar_type(max(index_of_segment.values())))
    for segment, index in index_of_segment.items():
        table[segment] = index
    relabelled: NDArray[Any] = table[pixels]
    return relabelled
