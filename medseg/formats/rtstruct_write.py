"""DICOM RT Structure Sets (PS3.3, A.19): contours in patient coordinates on the slices of the source."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg import __version__
from medseg.atomic import atomic_path
from medseg.errors import GeometryError
from medseg.formats.base import Algorithm, shown
from medseg.formats.check import confirm
from medseg.formats.contours import trace
from medseg.formats.dicom_derived import MANUFACTURER, Placed, place
from medseg.formats.dicom_elements import LPS_TO_RAS, quiet, text_of
from medseg.formats.dicom_source import Source, read_source
from medseg.formats.planes import Planes
from medseg.formats.rtstruct_read import rasterised, read_structures
from medseg.labels import Code, Label
from medseg.study import Finding, SourcePlane
from medseg.volume import Segmentation

_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what RT Referenced Study refers to
_SERIES_NUMBER = 901
_CONTOUR_DATA = 0x30060050
_DECIMALS = 4  # of coordinates in mm
_LONGEST_DS = 16


def write_rtstruct(
    segmentation: Segmentation, path: Path, source: Sequence[Path | SourcePlane], algorithm: Algorithm
) -> tuple[Finding, ...]:
    """Write labels as an RTSTRUCT on the slices of their source, and read it back.

    Contours run along the edges of voxels, so that they enclose exactly the labelled area; holes are joined to the
    outer contour (keyholes). Implicit VR, because explicit VR holds at most 64 KiB of coordinates a contour.

    Args:
        segmentation: Labels on any grid; each voxel of a source slice gets the nearest one.
        path: The file, which appears whole or not at all.
        source: Files of the series that was segmented, or planes of the volume.
        algorithm: What made the segmentation.

    Returns:
        What is doubtful, such as labels that do not occur and so are not in the file.

    Raises:
        InputError: If the source cannot be read or referred to.
        GeometryError: If the source's slices have no common geometry, or the segmentation is not on them.
        VerificationError: If the file, read back and rasterised, does not hold the labels.
        ResourceError: If the disk is full or the folder cannot be written.
    """
    origin = read_source(source)
    if np.abs(origin.planes.origins_mm).max() >= 10 ** (_LONGEST_DS - _DECIMALS - 2):
        raise GeometryError(f"{shown(path)}: the source lies too far from the origin for coordinates of 16 characters.")
    placed = place(segmentation, origin)
    with atomic_path(path) as part:
        with quiet():
            _object(placed, origin, algorithm).save_as(part, enforce_file_format=True)
        structures = read_structures(part)
        found = rasterised(structures, origin.planes, path).labels
        confirm(path, (placed.labels, origin.planes), (found, origin.planes))
    return placed.findings


def _object(placed: Placed, source: Source, algorithm: Algorithm) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    now = datetime.datetime.now()
    made.update(source.identity)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.InstanceCreationDate, made.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.StudyInstanceUID = source.study
    made.Modality = "RTSTRUCT"
    made.SeriesInstanceUID = generate_uid(prefix=None)
    made.SeriesNumber = _SERIES_NUMBER
    made.SeriesDescription = text_of(f"Segmentation by {algorithm.name}", 64)
    made.OperatorsName = ""
    made.Manufacturer = made.ManufacturerModelName = MANUFACTURER
    made.SoftwareVersions = __version__
    made.FrameOfReferenceUID = source.frame_of_reference
    made.PositionReferenceIndicator = ""
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetName = text_of(f"Segmentation by {algorithm.name} {algorithm.version}", 64)
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceNumber = 1
    made.ReferencedFrameOfReferenceSequence = [_referenced(source)]
    made.StructureSetROISequence = [_structure(label, source, algorithm) for label in placed.names]
    made.ROIContourSequence = [_contours(label, placed, source) for label in placed.names]
    made.RTROIObservationsSequence = [_observation(label) for label in placed.names]
    made.ApprovalStatus = "UNAPPROVED"
    return made


def _referenced(source: Source) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.series
    series.ContourImageSequence = [instance.item() for instance in source.instances]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_COMPONENT, source.study
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame


def _structure(label: Label, source: Source, algorithm: Algorithm) -> Dataset:
    item = Dataset()
    item.ROINumber = label.index
    item.ReferencedFrameOfReferenceUID = source.frame_of_reference
    item.ROIName = text_of(label.name, 64)
    item.ROIGenerationAlgorithm = "AUTOMATIC" if algorithm.automatic else ""
    item.ROIGenerationDescription = text_of(f"{algorithm.name} {algorithm.version}", 64)
    return item


def _contours(label: Label, placed: Placed, source: Source) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(label.rgb)
    item.ReferencedROINumber = label.index
    contours = []
    for number in range(len(placed.labels)):
        for points in _outlines(placed.labels[number] == label.index, source.planes, number):
            contour = Dataset()
            contour.ContourImageSequence = [source.references[number].item()]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour[_CONTOUR_DATA] = _coordinates(points)
            contours.append(contour)
    if contours:
        item.ContourSequence = contours
    return item


def _outlines(mask: NDArray[np.bool_], planes: Planes, number: int) -> Iterator[NDArray[np.float64]]:
    """Contours (n, 3) of a mask on one plane, in DICOM's LPS coordinates."""
    steps = np.array((planes.column_step_mm, planes.row_step_mm))
    for ring in trace(mask):
        yield (planes.origins_mm[number] + ring @ steps) @ LPS_TO_RAS


def _coordinates(points: NDArray[np.float64]) -> RawDataElement:
    """ContourData as it stands in the file: pydicom's own decimal strings take a hundred times as long."""
    content = "\\".join(map(decimal, points.ravel().tolist())).encode("ascii")
    content += b" " * (len(content) % 2)
    return RawDataElement(Tag(_CONTOUR_DATA), "DS", len(content), content, 0, True, True)


def _observation(label: Label) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = label.index
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    if label.code is not None:
        item.RTROIIdentificationCodeSequence = [_coded(label.code)]
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme
    item.CodeMeaning = text_of(code.meaning, 64)
    return item


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters, to a tenth of a micron."""
    text = f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    return text if len(text) <= _LONGEST_DS else format_number_as_ds(value)
