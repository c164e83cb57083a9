"""The header of one DICOM file, bounded against hostile content. No patient data leave this module in a message."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
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
from medseg.formats.dicom_elements import quiet
from medseg.formats.dicom_walk import walk

MOST_INFLATED_BYTES = 2**29  # of a deflated file: more would be a bomb, or a volume that nobody deflates

# All that reading needs; nothing else of the header is looked at.
_PLACE = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]
_PLACE += ["SpacingBetweenSlices"]  # for mosaics alone, which hold no other word on it
_GROUP = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription"]
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
# Siemens' mosaics: the number of slices, and the header in which their positions are hidden; Philips' b-value and
# direction; Siemens' and GE's b-value.
_PRIVATE = [0x0019100A, 0x00291010, 0x20011003, 0x200510B0, 0x200510B1, 0x200510B2, 0x0019100C, 0x00431039]
_TAGS: list[Any] = ["SOPClassUID", "SOPInstanceUID", *_PLACE, *_GROUP, *_KIND, *_TIME, *_PIXELS, *_VALUES, *_FRAMES]
_TAGS += [*_PRIVATE, 0x00080005]
_TAGS = [pydicom.tag.Tag(tag) for tag in _TAGS]
_NUMBERS = frozenset(map(int, _TAGS))  # a plain int is quicker to look up
_HEAD_BYTES = 2**16  # nearly every header of a single slice ends before
# Where the meta header ends and the data set begins, by transfer syntax: whether types are left out.
_TRANSFERS = {ImplicitVRLittleEndian: True, ExplicitVRLittleEndian: False}
_TRANSFERS |= {uid: False for uid in AllTransferSyntaxes if uid.is_encapsulated}

_TEXT_TYPES = frozenset(("CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"))
_OTHER_OBJECTS = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "FID", "DOC", "AU", "ECG")
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG_TYPES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


class SkippedFileError(InputError):
    """The file is no slice: another kind of object, or too damaged to tell.

    Attributes:
        damaged: Whether it may well have been a slice.
    """

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        path: The file.
        data: The elements that reading needs.
        syntax: Transfer syntax.
        pixels_at: Byte at which the element of the pixels begins, in the inflated file if it is deflated.
        room: Bytes from there to the end.
    """

    path: Path
    data: Dataset
    syntax: UID
    pixels_at: int
    room: int

    @property
    def is_plain(self) -> bool:
        """Whether pixels are stored as they are."""
        return not self.syntax.is_encapsulated


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes are DICOM, with its preamble or beginning with the data set itself."""
    starts_with_group = head[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
    return head[128:132] == b"DICM" or (starts_with_group and len(head) > 132)


def read_header(path: Path) -> Header:
    """Read the header of an image, not its pixels; to be called within `guarded`, as all that looks at its elements.

    Raises:
        SkippedFileError: If the file is not an image, or is damaged; the message is the reason alone, without path.
    """
    header = _parsed(path)
    check_is_image(header.data)
    return header


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what pydicom raises on a damaged header, when it is read or when an element is looked at, into one error.

    Raises:
        SkippedFileError: Instead of any other exception.
    """
    with quiet():
        try:
            yield
        except SkippedFileError:
            raise
        except Exception:  # pydicom raises whatever it likes on damaged data
            raise SkippedFileError("the DICOM header is damaged; copy the file again", damaged=True) from None


def _parsed(path: Path) -> Header:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        size = os.fstat(file.fileno()).st_size
        syntax = UID(_declared_syntax(head))
        if syntax != DeflatedExplicitVRLittleEndian:
            if syntax in _TRANSFERS and (found := walk(head, _meta_end(head), _NUMBERS, implicit=_TRANSFERS[syntax])):
                data, pixels_at = found
                return Header(path, data, syntax, pixels_at, size - pixels_at)
            file.seek(0)
            data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return Header(path, data, _syntax(data), file.tell(), size - file.tell())
    stream = inflated(path)
    data = read_dataset(
        stream, False, True, stop_when=lambda tag, *_: tag in _PIXEL_DATA, specific_tags=list(_TAGS)
    )  # fmt: skip
    return Header(path, data, syntax, stream.tell(), len(stream.getbuffer()) - stream.tell())


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


def _declared_syntax(head: bytes) -> str:
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


def numbers(data: Dataset, keyword: str | int, count: int) -> tuple[float, ...]:
    """The finite numbers of an element; () if it is absent or has another number of values."""
    value = _value(data, keyword)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = value.split("\\")
    values = [value] if count == 1 and not hasattr(value, "__len__") else list(value)
    try:
        found = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        return ()
    return found if len(found) == count and all(map(math.isfinite, found)) else ()


def text(data: Dataset, keyword: str) -> str:
    """The value as text, "" if it is absent; several values as DICOM writes them, with backslashes between."""
    value = _value(data, keyword)
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _value(data: Dataset, keyword: str | int) -> Any:
    """The value of an element; plain text, which most are, without pydicom's conversion, as several values in one."""
    tag = _tag(keyword)
    if tag not in data:
        return None
    element = data.get_item(tag)
    if isinstance(element, RawDataElement) and element.VR in _TEXT_TYPES:
        content = element.value or b""
        if content.isascii() and b"\0" not in content.rstrip(b"\0"):
            words = content.decode("ascii").rstrip("\0 ").split("\\")
            return "\\".join(word.strip() for word in words)
    return data[tag].value


_tag = lru_cache(maxsize=None)(pydicom.tag.Tag)  # which looks a keyword up each time


def code(data: Dataset, keyword: str) -> str:
    """A value of type CS, at most 16 printable characters whatever the file says, fit for a message."""
    return shown(text(data, keyword)[:16])
