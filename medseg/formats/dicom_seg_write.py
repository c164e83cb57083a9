"""DICOM Segmentation objects (PS3.3, A.51 and A.90), written through highdicom.

highdicom stumbles over much that real headers hold, and draws geometry from the first image of a series. So it is
given stand-ins: one clean single-frame header for each slice, with that slice's own position and one orientation for
all. What it wrote about them is then replaced by references to the real images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg import __version__
from medseg.atomic import atomic_path
from medseg.errors import ConfigError
from medseg.formats.base import Algorithm
from medseg.formats.check import confirm
from medseg.formats.dicom_derived import MANUFACTURER, Placed, place
from medseg.formats.dicom_elements import LPS_TO_RAS, quiet, text_of
from medseg.formats.dicom_seg_read import read_frames
from medseg.formats.dicom_source import Source, read_source
from medseg.labels import Code, Label
from medseg.study import Finding, SourcePlane
from medseg.volume import Segmentation

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

# The type of a label without a code, and the category of every label that is not among the abnormal ones.
FALLBACK_TYPE = Code(scheme="SCT", value="85756007", meaning="Tissue")
ANATOMICAL = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
ABNORMAL = Code(scheme="SCT", value="49755003", meaning="Morphologically Abnormal Structure")
_ABNORMAL_TYPES = {
    "108369006",  # neoplasm
    "86049000",  # primary malignant neoplasm
    "14799000",  # secondary malignant neoplasm
    "4147007",  # mass
    "52988006",  # lesion
    "27925004",  # nodule
    "79654002",  # oedema
    "6574001",  # necrosis
    "50960005",  # haemorrhage
    "12494005",  # cyst
}
_MOST_SEGMENTS = 65535
_SERIES_NUMBER = 900


def write_seg(
    segmentation: Segmentation, path: Path, source: Sequence[Path | SourcePlane], algorithm: Algorithm, *, binary: bool
) -> tuple[Finding, ...]:
    """Write labels as a DICOM SEG on the slices of their source, and read it back.

    Args:
        segmentation: Labels on any grid; each voxel of a source slice gets the nearest one.
        path: The file, which appears whole or not at all.
        source: Files of the series that was segmented, or planes of the volume.
        algorithm: What made the segmentation.
        binary: One bit a voxel and a frame for each segment and slice, which every viewer reads; otherwise LABELMAP,
            one number a voxel, run-length encoded, which is far smaller.

    Returns:
        What is doubtful, such as labels that do not occur and so are not in the file.

    Raises:
        InputError: If the source cannot be read or referred to.
        GeometryError: If the source's slices have no common geometry, or the segmentation is not on them.
        ConfigError: If a label's number is beyond what the format holds.
        VerificationError: If the file, read back, does not hold the labels.
        ResourceError: If the disk is full or the folder cannot be written.
    """
    origin = read_source(source)
    placed = place(segmentation, origin)
    if max(placed.names.indices) > _MOST_SEGMENTS:
        raise ConfigError(f"Label {max(placed.names.indices)} is beyond the 65535 that DICOM SEG holds; renumber it.")
    with atomic_path(path) as part:
        with quiet():
            _object(placed, origin, algorithm, binary=binary).save_as(part)
        frames = read_frames(part)
        confirm(path, (placed.labels, origin.planes), (frames.labels, frames.planes))
    return placed.findings


write_labelmap = partial(write_seg, binary=False)
write_binary = partial(write_seg, binary=True)


def _object(placed: Placed, source: Source, algorithm: Algorithm, *, binary: bool) -> Dataset:
    from highdicom.seg import Segmentation as SegmentationObject  # noqa: PLC0415 - takes half a second to load
    from highdicom.seg import SegmentationTypeValues  # noqa: PLC0415

    indices = placed.names.indices
    array = placed.labels.astype(np.min_scalar_type(max(indices)), copy=False)
    if binary:  # segments are numbered from 1 without gaps
        table = np.zeros(max(indices) + 1, dtype=np.uint16)
        table[list(indices)] = np.arange(1, len(indices) + 1)
        array = table[array]
    made: Dataset = SegmentationObject(
        source_images=_stand_ins(source),
        pixel_array=array,
        segmentation_type=SegmentationTypeValues.BINARY if binary else SegmentationTypeValues.LABELMAP,
        segment_descriptions=[
            _description(label, number if binary else label.index, algorithm)
            for number, label in enumerate(placed.names, start=1)
        ],
        series_instance_uid=generate_uid(prefix=None),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number="0",
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
        # With all slices a label map says where labels are absent, and what its grid is.
        omit_empty_frames=binary,
        content_label="SEGMENTATION",
        content_description=text_of(f"Segmentation by {algorithm.name}", 64),
        series_description=text_of(f"Segmentation by {algorithm.name}", 64),
    )
    _refer(made, source)
    return made


def _description(label: Label, number: int, algorithm: Algorithm) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence  # noqa: PLC0415
    from highdicom.color import CIELabColor  # noqa: PLC0415
    from highdicom.seg import SegmentAlgorithmTypeValues as Kind  # noqa: PLC0415
    from highdicom.seg import SegmentDescription  # noqa: PLC0415
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    code = label.code or FALLBACK_TYPE
    category = ABNORMAL if code.scheme == "SCT" and code.value in _ABNORMAL_TYPES else ANATOMICAL
    identification = AlgorithmIdentificationSequence(
        name=text_of(algorithm.name, 64),
        family=codes.cid7162.ArtificialIntelligence,
        version=text_of(algorithm.version, 64),
        source=MANUFACTURER,
    )
    description = SegmentDescription(
        segment_number=number,
        segment_label=text_of(label.name, 64),
        segmented_property_category=_concept(category),
        segmented_property_type=_concept(code),
        algorithm_type=Kind.AUTOMATIC if algorithm.automatic else Kind.SEMIAUTOMATIC,
        algorithm_identification=identification,
        display_color=CIELabColor.from_rgb(*label.rgb),
    )
    description.SegmentDescription = f"Label {label.index}"  # BINARY numbers segments anew
    return description


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept  # noqa: PLC0415

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=text_of(code.meaning, 64))


def _stand_ins(source: Source) -> list[Dataset]:
    """A clean header for each slice, whose SOPInstanceUID is its number."""
    planes = source.planes
    directions = [step / np.linalg.norm(step) for step in (planes.column_step_mm, planes.row_step_mm)]
    orientation = _decimals(np.concatenate([LPS_TO_RAS @ direction for direction in directions]))
    spacing = _decimals([float(np.linalg.norm(step)) for step in (planes.row_step_mm, planes.column_step_mm)])
    thickness, step = _decimals([source.thickness_mm, planes.step_mm])
    steps = (planes.along_mm - planes.along_mm[0]) / planes.step_mm
    # Where a slice is missing the distance still holds: readers find the others' places by it.
    is_regular = np.allclose(steps, np.rint(steps), atol=1e-2)
    stand_ins = []
    for number, origin in enumerate(planes.origins_mm, start=1):
        one = Dataset()
        one.update(source.identity)
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, _number_uid(number), "CT"
        one.StudyInstanceUID, one.SeriesInstanceUID = UID(source.study), UID(source.series)
        one.FrameOfReferenceUID = UID(source.frame_of_reference)
        one.Rows, one.Columns = planes.rows, planes.columns
        one.ImagePositionPatient, one.ImageOrientationPatient = _decimals(LPS_TO_RAS @ origin), orientation
        one.PixelSpacing, one.SliceThickness = spacing, thickness
        if is_regular:
            one.SpacingBetweenSlices = step
        stand_ins.append(one)
    return stand_ins


def _refer(made: Dataset, source: Source) -> None:
    """Put references to the real images in place of those to the stand-ins."""
    of_stand_in = {_number_uid(number): one for number, one in enumerate(source.references, start=1)}
    images = [
        image
        for frame in made.PerFrameFunctionalGroupsSequence
        for image in frame.DerivationImageSequence[0].SourceImageSequence
    ]
    for image in {id(image): image for image in images}.values():  # frames of several segments share an item
        image.update(of_stand_in[image.ReferencedSOPInstanceUID].item())
    made.SourceImageSequence = [instance.item() for instance in source.instances]
    series = Dataset()
    series.SeriesInstanceUID = source.series
    series.ReferencedInstanceSequence = [instance.item() for instance in source.instances]
    made.ReferencedSeriesSequence = [series]


def _number_uid(number: int) -> UID:
    return UID(f"2.25.{number}")


def _decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]
