"""One plane of a DICOM scan: where it lies, what kind it is, and how its pixels are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from medseg.formats.base import shown
from medseg.formats.dicom_fields import B_VALUES, GE_B_VALUE, code, numbers, text, whole
from medseg.formats.dicom_header import Header, SkippedFileError, class_name

PROJECTIONS = ("CR", "DX", "MG", "IO", "PX", "RF", "XA", "RG")  # shadows: no voxel has a place in space

# What may tell apart planes at one place, in the order in which it is tried; all values are numbers.
FRAME_KEYS = (
    "TemporalPositionIdentifier",
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "FrameReferenceTime",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
)
MOST_RATIO = 2000  # of compressed pixels, above what every file may have: an empty picture shrinks so far
FREE_BYTES = 2**24
_DATES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
)


@dataclass(frozen=True)
class Stored:
    """How the pixels of a file are stored.

    Attributes:
        syntax: Transfer syntax.
        pixels_at: Byte at which the element of the pixels begins.
        frames: Pictures in the file.
        rows: Rows of a picture, which for a mosaic is more than a plane has.
        columns: Columns of a picture.
        allocated: Bits that a pixel takes.
        bits: Bits that hold its value.
        high: The highest of them.
        signed: Whether that bit is a sign.
        photometric: PhotometricInterpretation.
    """

    syntax: UID
    pixels_at: int
    frames: int
    rows: int
    columns: int
    allocated: int
    bits: int
    high: int
    signed: bool
    photometric: str

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value that the stored bits can hold."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one picture that is not compressed."""
        return (self.rows * self.columns * self.allocated + 7) // 8


@dataclass(frozen=True)
class Slice:
    """One plane: a whole file, a frame of a file, or a tile of a mosaic.

    Attributes:
        path: The file.
        frame: Which picture of the file.
        corner: First row and column of the plane in its picture, which is (0, 0) but for mosaics.
        instance: SOPInstanceUID; "" if the file has none.
        sop_class: SOPClassUID.
        owner: Patient, study, series and frame of reference: planes of one volume have them in common.
        kind: Likewise modality, image type, kernel and unit.
        identity: PatientName, PatientID, AccessionNumber and PatientBirthDate, which are to show nowhere.
        contrast: Echo time and b-value: planes of one volume have them in common, volumes of one series need not.
        keys: Value of each of `FRAME_KEYS`; None if absent.
        number: InstanceNumber, which never places a plane.
        acquired: When it was acquired or made, for sorting.
        modality: DICOM modality.
        description: SeriesDescription, which may hold a name.
        rows: Voxels along J.
        columns: Voxels along I.
        position_lps: Centre of the first voxel, (x, y, z) in mm; () if absent or not three finite numbers.
        orientation_lps: Direction of growing column index, then of growing row index; () likewise.
        pixel_spacing_mm: Distance between rows (J), then between columns (I); () likewise.
        thickness_mm: SliceThickness, which is used for a single slice alone; 0 if absent.
        slope: Rescale slope, 1 if absent.
        intercept: Rescale intercept, 0 if absent.
        stored: How its pixels are stored.
        trouble: Why the pixels cannot be used; "" if they can.
    """

    path: Path
    frame: int
    corner: tuple[int, int]
    instance: str = field(repr=False)
    sop_class: str
    owner: tuple[str, ...] = field(repr=False)
    kind: tuple[str, ...]
    identity: tuple[str, str, str, str] = field(repr=False)
    contrast: tuple[float | None, ...]
    keys: tuple[tuple[float, ...] | None, ...]
    number: int | None
    acquired: tuple[str, ...]
    modality: str
    description: str = field(repr=False)
    rows: int
    columns: int
    position_lps: tuple[float, ...]
    orientation_lps: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]
    thickness_mm: float
    slope: float
    intercept: float
    stored: Stored
    trouble: str

    @property
    def is_localizer(self) -> bool:
        """Whether it was made to plan other scans."""
        return "LOCALIZER" in self.kind[1].upper()


def plain_slice(header: Header) -> Slice:
    """The one plane of a file that is neither multi-frame nor a mosaic.

    Raises:
        SkippedFileError: If the file ends before its pixels do.
    """
    data = header.data
    stored = stored_as(header)
    check_room(header, stored)
    rescale = {key: numbers(data, key, 1) for key in ("RescaleSlope", "RescaleIntercept", "SliceThickness")}
    kind = tuple(text(data, keyword) for keyword in ("Modality", "ImageType", "ConvolutionKernel"))
    kind += tuple(text(data, keyword) for keyword in ("PhotometricInterpretation", "RescaleType", "Units"))
    return Slice(
        path=header.path,
        frame=0,
        corner=(0, 0),
        instance=text(data, "SOPInstanceUID"),
        sop_class=text(data, "SOPClassUID"),
        owner=tuple(
            text(data, key) for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
        ),
        kind=(*kind, text(data, "ComplexImageComponent")),
        identity=(
            text(data, "PatientName"),
            text(data, "PatientID"),
            text(data, "AccessionNumber"),
            text(data, "PatientBirthDate"),
        ),
        contrast=(_first(data, "EchoTime"), b_value(data)),
        keys=frame_keys(data),
        number=int(number[0]) if (number := numbers(data, "InstanceNumber", 1)) else None,
        acquired=acquired(data),
        modality=code(data, "Modality"),
        description=text(data, "SeriesDescription"),
        rows=stored.rows,
        columns=stored.columns,
        position_lps=numbers(data, "ImagePositionPatient", 3),
        orientation_lps=numbers(data, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(data, "PixelSpacing", 2),
        thickness_mm=(*rescale["SliceThickness"], 0.0)[0],
        slope=(*rescale["RescaleSlope"], 1.0)[0],
        intercept=(*rescale["RescaleIntercept"], 0.0)[0],
        stored=stored,
        trouble=_trouble(header, stored),
    )


def frame_keys(data: Dataset) -> tuple[tuple[float, ...] | None, ...]:
    """The value of each of `FRAME_KEYS`."""
    counts = {"DiffusionGradientOrientation": 3}
    found = {key: numbers(data, key, counts.get(key, 1)) or None for key in FRAME_KEYS}
    if found["DiffusionGradientOrientation"] is None:  # Philips, before the standard had a place for it
        philips = tuple(number for tag in (0x200510B0, 0x200510B1, 0x200510B2) for number in numbers(data, tag, 1))
        found["DiffusionGradientOrientation"] = philips if len(philips) == 3 else None
    return tuple(found.values())


def b_value(data: Dataset) -> float | None:
    """The b-value, from the standard's element or one of a maker's own."""
    for key in ("DiffusionBValue", *B_VALUES):
        if found := numbers(data, key, None):
            return found[0] % 1e5 if key == GE_B_VALUE else found[0]  # GE adds 10⁹ to some
    return None


def acquired(data: Dataset) -> tuple[str, ...]:
    """Dates and times of acquisition, of content and of creation."""
    return tuple(text(data, key) for pair in _DATES for key in pair)


def _first(data: Dataset, keyword: str) -> float | None:
    return (*numbers(data, keyword, 1), None)[0]


def stored_as(header: Header) -> Stored:
    """How a file stores its pixels."""
    data = header.data
    bits = whole(data, "BitsStored", 0)
    return Stored(
        syntax=header.syntax,
        pixels_at=header.pixels_at,
        frames=max(whole(data, "NumberOfFrames", 1), 1),
        rows=whole(data, "Rows", 0),
        columns=whole(data, "Columns", 0),
        allocated=whole(data, "BitsAllocated", 0),
        bits=bits,
        high=whole(data, "HighBit", bits - 1),
        signed=whole(data, "PixelRepresentation", 0) == 1,
        photometric=code(data, "PhotometricInterpretation"),
    )


def check_room(header: Header, stored: Stored) -> None:
    """Turn away a file that ends before its pixels do, before memory is taken for them.

    Raises:
        SkippedFileError: If so.
    """
    needed = stored.frames * stored.frame_bytes  # of colours, which are refused, a part
    if header.room < (needed if header.is_plain else 1):
        raise SkippedFileError("the file ends in the middle of its pixels; copy the file again", damaged=True)
    if needed > max(MOST_RATIO * header.room, FREE_BYTES):
        raise SkippedFileError("it promises more pixels than its bytes can hold; copy the file again", damaged=True)


def _trouble(header: Header, stored: Stored) -> str:
    if stored.frames > 1 or "Enhanced" in class_name(header.data):
        what = f"a multi-frame image ({stored.frames} frames) that does not tell where its frames lie"
        return f"{what}; export it as single-frame DICOM or convert it to NIfTI"
    return pixel_trouble(header, stored)


def pixel_trouble(header: Header, stored: Stored) -> str:
    """Why pixels of this kind are not read, and what to do; "" if they are."""
    data = header.data
    colours = stored.photometric
    slope = numbers(data, "RescaleSlope", 1) if "RescaleSlope" in data else (1.0,)
    intercept = numbers(data, "RescaleIntercept", 1) if "RescaleIntercept" in data else (0.0,)
    bits = stored.bits
    bad_bits = stored.allocated not in (8, 16, 32) or not 1 <= bits <= stored.high + 1 <= stored.allocated
    is_grey = whole(data, "SamplesPerPixel", 1) == 1 and colours in ("MONOCHROME1", "MONOCHROME2")
    troubles: tuple[tuple[Any, str], ...] = (
        (not is_grey, f"a colour image ({colours or 'unknown colours'}); give grey values"),
        (header.has_floats, "pixels are floating-point numbers (a parametric map); convert it to NIfTI"),
        (min(stored.rows, stored.columns) < 1, "an empty image; check how it was exported"),
        (bad_bits, f"pixels of {bits} bits up to bit {stored.high} of {stored.allocated}; correct the header"),
        ("ModalityLUTSequence" in data, "values go through a lookup table; export it rescaled linearly"),
        (slope in ((), (0.0,)) or not intercept, "rescale slope or intercept is no usable number; correct the header"),
        (
            not decodable(stored.syntax),
            f"compressed as {shown(stored.syntax.name)}, for which no decoder is installed; decompress it",
        ),
    )
    return next((trouble for applies, trouble in troubles if applies), "")


def decodable(syntax: UID) -> bool:
    """Whether pixels of this transfer syntax can be read here."""
    if not syntax.is_encapsulated and not syntax.is_private:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False
