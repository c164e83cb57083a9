"""Values of the fields of a DICOM header, quickly: a large scan asks for millions of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medseg.formats.base import shown

_TEXT_TYPES = frozenset(("CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"))


def numbers(data: Dataset, keyword: str | int, count: int) -> tuple[float, ...]:
    """The finite numbers of an element; () if it is absent or has another number of values."""
    value = _value(data, keyword)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        values: list[Any] = value.split("\\")
    else:
        values = [value] if count == 1 and not hasattr(value, "__len__") else list(value)
    try:
        found = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        return ()
    return found if len(found) == count and all(map(math.isfinite, found)) else ()


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
    return data[_tag(keyword)].value


_tag = lru_cache(maxsize=None)(pydicom.tag.Tag)  # which looks a keyword up each time


def code(data: Dataset, keyword: str) -> str:
    """A value of type CS, at most 16 printable characters whatever the file says, fit for a message."""
    return shown(text(data, keyword)[:16])
