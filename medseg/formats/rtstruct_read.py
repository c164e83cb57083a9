"""DICOM RT Structure Sets: contours, and the voxels that they enclose on given planes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.formats.base import allocate, shown
from medseg.formats.contours import Mask, Ring, combine, fill
from medseg.formats.dicom_derived import check_overlap, code_of, label_set
from medseg.formats.dicom_elements import LPS_TO_RAS, quiet, text_of, told
from medseg.formats.planes import Labels, Planes
from medseg.labels import Code, LabelSet
from medseg.study import Finding

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FLAT = 0.1  # of the distance between planes: how far points of a contour may be from their common plane


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed contour.

    Attributes:
        points_mm: (n, 3) in world coordinates (RAS+).
        exclusive: Whether contours of the structure are to be counted by exclusive or (CLOSEDPLANAR_XOR).
    """

    points_mm: NDArray[np.float64]
    exclusive: bool


@dataclass(frozen=True, eq=False)
class Structures:
    """What an RTSTRUCT holds.

    Attributes:
        names: Names, codes and colours; the labels are the ROI numbers.
        contours: Of every label, {index: contours}.
        instances: SOPInstanceUIDs of the images that it refers to.
        frame_of_reference: The FrameOfReferenceUID of its contours.
        findings: Doubts.
    """

    names: LabelSet
    contours: dict[int, tuple[Contour, ...]]
    instances: frozenset[str]
    frame_of_reference: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class Raster:
    """Structures as voxels: labels (N, rows, columns), what they mean, and doubts."""

    labels: Labels
    names: LabelSet
    findings: tuple[Finding, ...]


def read_structures(path: Path) -> Structures:
    """Read the contours of every structure.

    Raises:
        InputError: If the file is damaged, or holds no structure.
    """
    with quiet(), told(path, "the RT structure set"):
        return _structures(pydicom.dcmread(path, force=True))


def rasterised(structures: Structures, planes: Planes, path: Path, names: tuple[str, ...] = ()) -> Raster:
    """The voxels of planes whose centres the contours enclose; each contour counts on the plane nearest to it.

    Args:
        structures: The contours.
        planes: On which to draw them.
        path: The file, for messages.
        names: The structures to draw; all where none is named.

    Raises:
        GeometryError: If contours are not parallel to the planes, or structures share voxels.
        ConfigError: If a name is not in the file.
    """
    kept = structures.names.subset(names) if names else structures.names
    labels = allocate(planes.shape, np.min_scalar_type(max(kept.indices)), path)
    labels[...] = 0
    beyond = crossed = 0
    for label in kept:
        by_plane: dict[int, list[Contour]] = defaultdict(list)
        for contour in structures.contours[label.index]:
            number = _plane(contour, planes, path)
            if number is None:
                beyond += 1
            else:
                by_plane[number].append(contour)
        for number, contours in by_plane.items():
            mask, doubtful = _enclosed(contours, planes, number)
            crossed += doubtful
            check_overlap(labels[number], mask, label.index, kept, path)
            labels[number][mask] = label.index
    findings = [*structures.findings]
    if beyond:
        text = f"{beyond} contour(s) lie between or beyond the slices, and were left out."
        findings.append(Finding("contours-off-slices", text))
    if crossed:
        text = f"Contours of one structure cross one another on {crossed} slice(s); they were added up."
        findings.append(Finding("contours-cross", text))
    return Raster(labels, kept, tuple(findings))


def _structures(data: Dataset) -> Structures:
    described = list(data.get("StructureSetROISequence") or [])
    if not described or "ROIContourSequence" not in data:
        missing = "contours" if described else "structures"
        raise InputError(f"The RT structure set has no {missing} (cut short?); get the file again.")
    numbers = [int(item.ROINumber) for item in described]
    plain = min(numbers) >= 1 and len(set(numbers)) == len(numbers)
    indices = numbers if plain else list(range(1, len(numbers) + 1))
    index_of = dict(zip(numbers, indices, strict=True))
    items = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence") or []}
    codes = _codes(data)
    found = [
        (index, text_of(item.get("ROIName"), 64) or f"structure {number}", codes.get(number), _colour(items, number))
        for item, number, index in zip(described, numbers, indices, strict=True)
    ]
    contours: dict[int, tuple[Contour, ...]] = dict.fromkeys(indices, ())
    passed_over = 0
    instances: set[str] = set()
    for number, item in items.items():
        all_ = list(item.get("ContourSequence") or [])
        closed = [one for one in all_ if one.get("ContourGeometricType") in _CLOSED and _count(one) >= 3]
        passed_over += len(all_) - len(closed)
        if number in index_of:
            contours[index_of[number]] = tuple(_contour(one) for one in closed)
        instances |= {
            str(image.ReferencedSOPInstanceUID) for one in all_ for image in one.get("ContourImageSequence") or []
        }
    findings: tuple[Finding, ...] = ()
    if passed_over:
        text = f"{passed_over} contour(s) are points or open lines, which enclose nothing, and were left out."
        findings = (Finding("open-contours", text),)
    return Structures(label_set(found), contours, frozenset(instances), _frame_of_reference(data, described), findings)


def _frame_of_reference(data: Dataset, described: list[Dataset]) -> str:
    return str(described[0].get("ReferencedFrameOfReferenceUID") or data.get("FrameOfReferenceUID") or "")


def _count(item: Dataset) -> int:
    return int(item.get("NumberOfContourPoints") or 0)


def _contour(item: Dataset) -> Contour:
    stored = item.get_item("ContourData").value
    # As the bytes stand in the file, for pydicom's own decimal strings take a hundred times as long.
    values = stored.rstrip(b" \0").split(b"\\") if isinstance(stored, bytes) else stored
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise InputError("A contour has coordinates that are not finite; get the file again.")
    return Contour(points @ LPS_TO_RAS, item.ContourGeometricType == "CLOSEDPLANAR_XOR")


def _colour(items: dict[int, Dataset], number: int) -> tuple[int, int, int] | None:
    colour = list(items[number].get("ROIDisplayColor") or []) if number in items else []
    if len(colour) != 3:
        return None
    red, green, blue = (min(max(int(value), 0), 255) for value in colour)
    return red, green, blue


def _codes(data: Dataset) -> dict[int, Code]:
    found = {}
    for item in data.get("RTROIObservationsSequence") or []:
        if code := code_of(item.get("RTROIIdentificationCodeSequence")):
            found[int(item.ReferencedROINumber)] = code
    return found


def _plane(contour: Contour, planes: Planes, path: Path) -> int | None:
    """The plane that a contour lies on; None if it is further than half a step from every plane."""
    along = contour.points_mm @ planes.normal
    if np.ptp(along) > 2 * _FLAT * planes.step_mm:
        raise GeometryError(
            f"{shown(path)}: the contours are not parallel to the slices; give the series that they were drawn on."
        )
    middle = float(along.mean())
    number = int(planes.nearest(np.array([middle]))[0])
    return number if abs(middle - planes.along_mm[number]) <= planes.step_mm * (0.5 + 1e-3) else None


def _enclosed(contours: list[Contour], planes: Planes, number: int) -> tuple[Mask, bool]:
    shape = (planes.rows, planes.columns)
    rings: list[Ring] = [(one.points_mm - planes.origins_mm[number]) @ planes.to_pixel.T for one in contours]
    if not any(one.exclusive for one in contours):
        return combine(rings, shape)
    together = np.zeros(shape, dtype=bool)
    for ring in rings:
        together ^= fill(ring, shape)
    return together, False
