"""Values of the fields of a DICOM header, quickly: a large scan asks for millions of them."""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medseg.formats.base import shown

_TEXT_TYPES = frozenset(("CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"))


# Elements of makers: b-values of Siemens, Philips, GE and United Imaging, and the direction of Philips. Files without
# types of elements do not say how these are to be read.
GE_B_VALUE = 0x00431039
SIEMENS_TILES = 0x0019100A  # number of images in a mosaic
B_VALUES = (0x0019100C, 0x20011003, GE_B_VALUE, 0x00651009)
_PRIVATE_TYPES = dict.fromkeys((0x20011003, 0x200510B0, 0x200510B1, 0x200510B2), "<f")
_PRIVATE_TYPES |= {0x00651009: "<d", SIEMENS_TILES: "<H"}
_PRIVATE_TEXTS = frozenset((0x0019100C, GE_B_VALUE))


def numbers(data: Dataset, keyword: str | int, count: int | None) -> tuple[float, ...]:
    """The finite numbers of an element, so many or any number; () if it is absent or has another number of values."""
    value = _value(data, keyword)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        values: list[Any] = value.split("\\")
    else:
        values = [value] if count in (1, None) and not hasattr(value, "__len__") else list(value)
    try:
        found = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        return ()
    return found if count in (len(found), None) and all(map(math.isfinite, found)) else ()


def whole(data: Dataset, keyword: str, default: int) -> int:
    """The value as a whole number; `default` if it is absent or empty."""
    value = _value(data, keyword)
    return default if value is None or value == "" else int(value)


def text(data: Dataset, keyword: str) -> str:
    """The value as text, "" if it is absent; several values as DICOM writes them, with backslashes between."""
    value = _value(data, keyword)
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _value(data: Dataset, keyword: str | int) -> Any:
    """The value of an element; plain text and numbers, which most are, without pydicom's slow conversion.

    Several values of plain text come as one text with backslashes between.
    """
    element = data.get_item(_tag(keyword))
    if element is None:
        return None
    if isinstance(element, RawDataElement):
        content = element.value or b""
        if element.VR in _TEXT_TYPES:
            if content.isascii() and b"\0" not in content.rstrip(b"\0"):
                words = content.decode("ascii").rstrip("\0 ")
                return "\\".join(map(str.strip, words.split("\\"))) if "\\" in words else words.strip()
        elif element.VR == "US" and len(content) == 2 and element.is_little_endian:
            return int.from_bytes(content, "little")
        elif element.VR in (None, "UN") and element.tag in _PRIVATE_TEXTS:
            return content.decode("ascii", "replace").rstrip("\0 ")
        elif element.VR in (None, "UN") and element.tag in _PRIVATE_TYPES:
            kind = _PRIVATE_TYPES[element.tag]
            return struct.unpack(kind, content)[0] if len(content) == struct.calcsize(kind) else None
    return data[_tag(keyword)].value


_tag = lru_cache(maxsize=None)(pydicom.tag.Tag)  # which looks a keyword up each time


def code(data: Dataset, keyword: str) -> str:
    """A value of type CS, at most 16 printable characters whatever the file says, fit for a message."""
    return shown(text(data, keyword)[:16])
