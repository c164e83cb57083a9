"""One DICOM file: what its header says, and its pixels. No patient data leave this module."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medseg.errors import InputError
from medseg.formats.base import shown

# All that reading needs; nothing else of the header is looked at.
_PLACE = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]
_GROUP = ["PatientID", "SeriesInstanceUID", "FrameOfReferenceUID"]
_KIND = ["Modality", "ImageType", "ConvolutionKernel", "EchoTime", "DiffusionBValue", "TemporalPositionIdentifier"]
_KIND += ["PhotometricInterpretation", "RescaleType", "Units"]
_PIXELS = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PixelRepresentation"]
_PIXELS += ["BitsAllocated", "BitsStored", "HighBit"]
_VALUES = ["RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"]
_TAGS: list[Any] = ["SOPClassUID", "SOPInstanceUID", *_PLACE, *_GROUP, *_KIND, *_PIXELS, *_VALUES]


class SkippedFileError(InputError):
    """The file is no slice: another kind of object, or too damaged to tell.

    Attributes:
        damaged: Whether it may well have been a slice.
    """

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged


@dataclass(frozen=True)
class Slice:
    """The header of one image file.

    Attributes:
        path: The file.
        instance: SOPInstanceUID; "" if the file has none.
        group: Files of one group may form a volume: patient, series and frame of reference.
        kind: What all slices of a volume have in common: modality, image type, kernel, echo time and so on.
        modality: DICOM modality.
        rows: Voxels along J.
        columns: Voxels along I.
        position_lps: Centre of the first voxel, (x, y, z) in mm; () if absent or not three finite numbers.
        orientation_lps: Direction of growing column index, then of growing row index; () likewise.
        pixel_spacing_mm: Distance between rows (J), then between columns (I); () likewise.
        thickness_mm: SliceThickness, which is used for a single slice alone; 0 if absent.
        slope: Rescale slope, 1 if absent.
        intercept: Rescale intercept, 0 if absent.
        stored_range: Smallest and largest value that the stored bits can hold.
        trouble: Why the pixels cannot be used; "" if they can.
    """

    path: Path
    instance: str
    group: tuple[str, ...] = field(repr=False)
    kind: tuple[str, ...]
    modality: str
    rows: int
    columns: int
    position_lps: tuple[float, ...]
    orientation_lps: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]
    thickness_mm: float
    slope: float
    intercept: float
    stored_range: tuple[int, int]
    trouble: str


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes are DICOM, with its preamble or beginning with the data set itself."""
    starts_with_group = head[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
    return head[128:132] == b"DICM" or (starts_with_group and len(head) > 132)


def read_slice(path: Path) -> Slice:
    """Read a header, not the pixels.

    Raises:
        SkippedFileError: If the file is not an image, or is damaged; the message is the reason alone, without path.
    """
    with _quiet():
        try:
            with path.open("rb") as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
                pixels_at = file.tell()
            _check_is_image(header)
            result = _slice(path, header)
            room = path.stat().st_size - pixels_at
            if (
                not result.trouble
                and _is_plain(header)
                and room < result.rows * result.columns * header.BitsAllocated // 8
            ):
                raise SkippedFileError("the file ends in the middle of its pixels; copy the file again", damaged=True)
        except SkippedFileError:
            raise
        except Exception:  # pydicom raises whatever it likes on damaged data
            raise SkippedFileError("the DICOM header is damaged; copy the file again", damaged=True) from None
    return result


def read_pixels(one: Slice) -> NDArray[Any]:
    """The stored values (rows, columns), unused bits cleared, neither rescaled nor inverted.

    Raises:
        InputError: If the pixels are damaged or cannot be decoded.
    """
    with _quiet():
        try:
            data = pydicom.dcmread(one.path, force=True)
            data.file_meta.TransferSyntaxUID = _syntax(data)
            stored = pixel_array(data, raw=True)
        except Exception as error:  # decoders raise whatever they like on damaged data
            name = type(error).__name__
            text = f"its pixels cannot be decoded ({name}); copy the file again or leave it out."
            raise InputError(f"{shown(one.path)}: {text}") from None
    if stored.shape != (one.rows, one.columns):
        raise InputError(f"{shown(one.path)}: its pixels have shape {stored.shape}, not what the header says.")
    return stored


def pixel_bytes(one: Slice) -> bytes:
    """The pixels as they are encoded, to tell whether two files are copies.

    Raises:
        InputError: If the file cannot be read.
    """
    with _quiet():
        try:
            data = pydicom.dcmread(one.path, force=True, specific_tags=["PixelData"])
            return str(_syntax(data)).encode() + bytes(data.get("PixelData", b""))
        except Exception:  # as above
            raise InputError(f"{shown(one.path)}: cannot be read; copy the file again or leave it out.") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Pydicom quotes values in its warnings, and values may be a patient's name."""
    level, mode = pydicom_config.logger.level, pydicom_config.settings.reading_validation_mode
    pydicom_config.logger.setLevel("CRITICAL")
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom_config.logger.setLevel(level)
        pydicom_config.settings.reading_validation_mode = mode


def _syntax(header: Dataset) -> UID:
    """The transfer syntax; files without a meta header are little-endian, with or without explicit types."""
    plain = ImplicitVRLittleEndian if header.original_encoding[0] else ExplicitVRLittleEndian
    return UID(str(header.file_meta.get("TransferSyntaxUID") or plain))


def _class_name(header: Dataset) -> str:
    """Name of the SOP class; the meta header's counts where the data set's is cut off."""
    for uid in (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")):
        name = UID(str(uid or "")).name
        if name and not name[0].isdigit():
            return name
    return ""


def _check_is_image(header: Dataset) -> None:
    name = _class_name(header)
    modality = _text(header, "Modality")
    if name == MediaStorageDirectoryStorage.name:
        raise SkippedFileError("a DICOMDIR, an index of other files", damaged=False)
    if modality in ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "FID", "DOC"):
        raise SkippedFileError(f"a DICOM {modality} object, not a scan", damaged=False)
    if "Rows" not in header or "Columns" not in header:
        if name and "Image Storage" not in name:
            raise SkippedFileError(f"a DICOM object without pixels ({shown(name)}), not a scan", damaged=False)
        if not name and "SOPInstanceUID" not in header and "SeriesInstanceUID" not in header:
            raise SkippedFileError("not a DICOM file, whatever its name says", damaged=False)
        raise SkippedFileError("the DICOM header is damaged or cut short; copy the file again", damaged=True)


def _slice(path: Path, header: Dataset) -> Slice:
    bits, signed = max(int(header.get("BitsStored", 0)), 1), int(header.get("PixelRepresentation", 0)) == 1
    numbers = {key: _numbers(header, key, 1) for key in ("RescaleSlope", "RescaleIntercept", "SliceThickness")}
    return Slice(
        path=path,
        instance=_text(header, "SOPInstanceUID"),
        group=tuple(_text(header, keyword) for keyword in _GROUP),
        kind=tuple(_text(header, keyword) for keyword in _KIND),
        modality=_code(header, "Modality"),
        rows=int(header.Rows),
        columns=int(header.Columns),
        position_lps=_numbers(header, "ImagePositionPatient", 3),
        orientation_lps=_numbers(header, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(header, "PixelSpacing", 2),
        thickness_mm=(*numbers["SliceThickness"], 0.0)[0],
        slope=(*numbers["RescaleSlope"], 1.0)[0],
        intercept=(*numbers["RescaleIntercept"], 0.0)[0],
        stored_range=(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1),
        trouble=_trouble(header),
    )


def _trouble(header: Dataset) -> str:
    """Why pixels of this kind are not read, and what to do."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel", 1))
    colours = _code(header, "PhotometricInterpretation")
    allocated, bits = int(header.get("BitsAllocated", 0)), int(header.get("BitsStored", 0))
    high = int(header.get("HighBit", bits - 1))
    slope = _numbers(header, "RescaleSlope", 1) if "RescaleSlope" in header else (1.0,)
    intercept = _numbers(header, "RescaleIntercept", 1) if "RescaleIntercept" in header else (0.0,)
    syntax = _syntax(header)
    bad_bits = allocated not in (8, 16, 32) or not 1 <= bits <= allocated or high != bits - 1
    is_grey = samples == 1 and colours in ("MONOCHROME1", "MONOCHROME2")
    multi_frame = f"a multi-frame image ({frames} frames); export it as single-frame DICOM or convert it to NIfTI"
    undecodable = f"compressed as {shown(syntax.name)}, for which no decoder is installed; decompress it"
    troubles = (
        (frames > 1 or "Enhanced" in _class_name(header), multi_frame),
        ("MOSAIC" in _text(header, "ImageType"), "a mosaic of slices in one picture; convert it to NIfTI"),
        (not is_grey, f"a colour image ({colours or 'unknown colours'}); give grey values"),
        (min(int(header.Rows), int(header.Columns)) < 1, "an empty image; check how it was exported"),
        (bad_bits, f"pixels of {bits} bits up to bit {high} of {allocated}; convert it to plain 8 or 16 bits"),
        ("ModalityLUTSequence" in header, "values go through a lookup table; export it rescaled linearly"),
        (slope in ((), (0.0,)) or not intercept, "rescale slope or intercept is no usable number; correct the header"),
        (
            not _decodable(syntax),
            undecodable,
        ),
    )
    return next((trouble for applies, trouble in troubles if applies), "")


def _is_plain(header: Dataset) -> bool:
    """Whether pixels are stored as they are, so that the file's size tells whether they are all there."""
    syntax = _syntax(header)
    return not syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian


def _decodable(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    value = header.get(keyword)
    if value is None or value == "":
        return ()
    values = [value] if count == 1 and not hasattr(value, "__len__") else list(value)
    numbers = tuple(float(number) for number in values)
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value)


def _code(header: Dataset, keyword: str) -> str:
    """A value of type CS, at most 16 printable characters whatever the file says, fit for a message."""
    return shown(_text(header, keyword)[:16])
