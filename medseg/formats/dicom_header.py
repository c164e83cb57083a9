"""The header of one DICOM file, bounded against hostile content. No patient data leave this module in a message."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medseg.errors import InputError
from medseg.formats.base import shown
from medseg.formats.dicom_fields import B_VALUES, SIEMENS_TILES, text
from medseg.formats.dicom_walk import walk

MOST_HEADER_BYTES = 2**23  # that are parsed without limits of time and memory, which is a matter of seconds
MOST_INFLATED_BYTES = 2**29  # of a deflated file: more would be a bomb, or a volume that nobody deflates

# All that reading needs; nothing else of the header is looked at.
_PLACE = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]
_PLACE += ["SpacingBetweenSlices"]  # for mosaics alone, which hold no other word on it
_GROUP = [
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
]
_KIND = ["Modality", "ImageType", "ConvolutionKernel", "PhotometricInterpretation", "RescaleType", "Units"]
_KIND += ["ComplexImageComponent", "VolumetricProperties"]
_TIME = ["EchoTime", "DiffusionBValue", "DiffusionGradientOrientation", "TemporalPositionIdentifier", "TriggerTime"]
_TIME += ["InversionTime", "FlipAngle", "AcquisitionNumber", "InstanceNumber", "NominalPercentageOfCardiacPhase"]
_TIME += ["AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "InstanceCreationDate"]
_TIME += ["InstanceCreationTime", "FrameReferenceTime", "ActualFrameDuration"]
_PIXELS = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PixelRepresentation"]
_PIXELS += ["BitsAllocated", "BitsStored", "HighBit"]
_VALUES = ["RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"]
_FRAMES = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
# Siemens' mosaics: the number of slices, and the header in which their positions are hidden; Philips' direction of
# diffusion.
_PRIVATE = [SIEMENS_TILES, 0x00291010, 0x200510B0, 0x200510B1, 0x200510B2, *B_VALUES]
_TAGS: list[Any] = ["SOPClassUID", "SOPInstanceUID", *_PLACE, *_GROUP, *_KIND, *_TIME, *_PIXELS, *_VALUES, *_FRAMES]
_TAGS += [*_PRIVATE, 0x00080005]
_TAGS = [pydicom.tag.Tag(tag) for tag in _TAGS]
_NUMBERS = frozenset(map(int, _TAGS))  # a plain int is quicker to look up
_HEAD_BYTES = (2**14, 2**16, 2**20)  # most headers of a single slice end within the first, nearly all within all
# Where the meta header ends and the data set begins, by transfer syntax: whether types are left out.
_TRANSFERS = {ImplicitVRLittleEndian: True, ExplicitVRLittleEndian: False}
_TRANSFERS |= {uid: False for uid in AllTransferSyntaxes if uid.is_encapsulated}

_OTHER_OBJECTS = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "FID", "DOC", "AU", "ECG")
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_FLOATS = (b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0", b"\x7f\xe0\0\x08", b"\x7f\xe0\0\x09")
_LONG_TYPES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


class SkippedFileError(InputError):
    """The file is no slice: another kind of object, or too damaged to tell.

    Attributes:
        damaged: Whether it may well have been a slice.
    """

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), damaged=self.damaged), self.args  # exceptions forget keywords when pickled


class LargeHeaderError(Exception):
    """A header is so large that it has to be read within limits of time and memory."""


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        path: The file.
        data: The elements that reading needs.
        syntax: Transfer syntax.
        pixels_at: Byte at which the element of the pixels begins, in the inflated file if it is deflated.
        room: Bytes from there to the end.
        has_floats: Whether that element holds floating-point numbers, which no scanner's image does.
    """

    path: Path
    data: Dataset
    syntax: UID
    pixels_at: int
    room: int
    has_floats: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether pixels are stored as they are."""
        return not self.syntax.is_encapsulated


def read_header(path: Path, *, limited: bool = False) -> Header:
    """Read the header of an image, not its pixels.

    To be called within `guarded` and `quiet`, as all that looks at its elements.

    Args:
        path: The file.
        limited: Whether time and memory of this process are limited, so that a header may be as large as it likes.

    Raises:
        SkippedFileError: If the file is not an image, or is damaged; the message is the reason alone, without path.
        LargeHeaderError: If the header is large and the process is not limited.
    """
    header = _parsed(path, sys.maxsize if limited else MOST_HEADER_BYTES)
    check_is_image(header.data)
    return header


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what pydicom raises on a damaged header, when it is read or when an element is looked at, into one error.

    Raises:
        SkippedFileError: Instead of any other exception.
        LargeHeaderError: If the header is too large to be read without limits.
    """
    try:
        yield
    except (SkippedFileError, LargeHeaderError, MemoryError):
        raise
    except Exception:  # pydicom raises whatever it likes on damaged data
        raise SkippedFileError("the DICOM header is damaged; copy the file again", damaged=True) from None


def _parsed(path: Path, most_bytes: int) -> Header:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = b""
        for count in _HEAD_BYTES:
            head += file.read(count)
            syntax = UID(declared_syntax(head))
            if syntax in _TRANSFERS and (found := walk(head, _meta_end(head), _NUMBERS, implicit=_TRANSFERS[syntax])):
                data, pixels_at = found
                return Header(path, data, syntax, pixels_at, size - pixels_at, head[pixels_at:][:4] in _FLOATS)
            if len(head) == size:
                break
        if syntax != DeflatedExplicitVRLittleEndian:
            file.seek(0)
            with _counted(file, most_bytes) as counted:
                data = pydicom.dcmread(counted, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            at = file.tell()
            return Header(path, data, _syntax(data), at, size - at, file.read(4) in _FLOATS)
    stream = inflated(path)
    with _counted(stream, most_bytes) as counted:
        data = read_dataset(
            counted, False, True, stop_when=lambda tag, *_: tag in _PIXEL_DATA, specific_tags=list(_TAGS)
        )  # fmt: skip
    return Header(path, data, syntax, stream.tell(), len(stream.getbuffer()) - stream.tell())


class _Counted:
    """A stream of which only so many bytes may be read; what is passed over does not count."""

    def __init__(self, stream: IO[bytes], most_bytes: int) -> None:
        self._stream, self.left = stream, most_bytes
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        content = self._stream.read(count if 0 <= count <= self.left else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise EOFError
        return content


@contextmanager
def _counted(stream: IO[bytes], most_bytes: int) -> Iterator[Any]:
    counted = _Counted(stream, most_bytes)
    try:
        yield counted
    except Exception:  # pydicom puts others in place of the one that says that it is enough
        if counted.left >= 0:
            raise
    if counted.left < 0:
        raise LargeHeaderError


def inflated(path: Path) -> BytesIO:
    """The data set of a deflated file, at most `MOST_INFLATED_BYTES` of it.

    Raises:
        SkippedFileError: If there is more.
    """
    with path.open("rb") as file:
        content = file.read()
    start = _meta_end(content)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflate.decompress(content[start:], MOST_INFLATED_BYTES)
    if inflate.unconsumed_tail:
        most = MOST_INFLATED_BYTES // 2**20
        raise SkippedFileError(f"a deflated file of more than {most} MiB; inflate it with a DICOM tool", damaged=False)
    return BytesIO(data)


def declared_syntax(head: bytes) -> str:
    """The transfer syntax that the meta header declares; "" if it has none, or if it is not within these bytes."""
    for tag, start, stop in _meta_elements(head):
        if tag == 0x00020010:
            return head[start:stop].decode("ascii", "replace").rstrip("\0 ")
    return ""


def _meta_end(content: bytes) -> int:
    return max((stop for _, _, stop in _meta_elements(content)), default=132)


def _meta_elements(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of the value of each element of group 2, which is always explicit little-endian."""
    at = 132 if content[128:132] == b"DICM" else 0
    while len(content) >= at + 12:
        group, element, kind = struct.unpack_from("<HH2s", content, at)
        if group != 2:
            return
        is_long = kind in _LONG_TYPES
        length = struct.unpack_from("<I" if is_long else "<H", content, at + (8 if is_long else 6))[0]
        start = at + (12 if is_long else 8)
        at = start + length
        yield group << 16 | element, start, min(at, len(content))


def _syntax(data: Dataset) -> UID:
    """The transfer syntax; files without a meta header are little-endian, with or without explicit types."""
    implicit, little = data.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return UID(str(data.file_meta.get("TransferSyntaxUID") or plain))


def class_name(data: Dataset) -> str:
    """Name of the SOP class; the meta header's counts where the data set's is cut off."""
    meta = getattr(data, "file_meta", {})
    for uid in (text(data, "SOPClassUID"), meta.get("MediaStorageSOPClassUID")):
        name = UID(str(uid or "")).name
        if name and not name[0].isdigit():
            return name
    return ""


def check_is_image(data: Dataset) -> None:
    """Turn away what holds no pixels of a scan.

    Raises:
        SkippedFileError: With what it is instead.
    """
    name, modality = class_name(data), text(data, "Modality")
    if name == MediaStorageDirectoryStorage.name:
        raise SkippedFileError("a DICOMDIR, an index of other files", damaged=False)
    if modality in _OTHER_OBJECTS or "Segmentation Storage" in name:
        raise SkippedFileError(f"a DICOM {modality or 'SEG'} object, not a scan", damaged=False)
    if "Rows" not in data or "Columns" not in data:
        if name and "Image Storage" not in name:
            raise SkippedFileError(f"a DICOM object without pixels ({shown(name)}), not a scan", damaged=False)
        if not name and "SOPInstanceUID" not in data and "SeriesInstanceUID" not in data:
            raise SkippedFileError("not a DICOM file, whatever its name says", damaged=False)
        raise SkippedFileError("the DICOM header is damaged or cut short; copy the file again", damaged=True)
