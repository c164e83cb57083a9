"""Finds elements in the first bytes of a DICOM data set without parsing the others: what makes a large scan quick."""

from __future__ import annotations

import struct
from collections.abc import Set
from functools import lru_cache

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

_LONG_TYPES = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_TYPES = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US")
)  # fmt: skip
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_FIRST_OF_PIXELS = min(_PIXELS)
_PLAIN = struct.Struct("<HH2sH")  # group, element, type and length of an element of a short type
_DEEPEST = 8


class _OddError(Exception):
    """Anything but the plain case: pydicom is asked instead."""


def walk(content: bytes, start: int, wanted: Set[int], *, implicit: bool) -> tuple[Dataset, int] | None:
    """The wanted elements of a little-endian data set, and the byte at which its pixels begin.

    Returns:
        None if the pixels do not begin within `content`, if a wanted element is a sequence, or if anything is odd.
    """
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    at, last, size = start, 0, len(content)
    try:
        while True:
            group, element, kind, length = _PLAIN.unpack_from(content, at)
            if implicit or group == 0xFFFE or kind not in _SHORT_TYPES:
                tag, kind, value_at, length = _element(content, at, implicit=implicit)
            else:  # nearly every element: as `_element` has it, but here
                tag, value_at = group << 16 | element, at + 8
            if tag >= _FIRST_OF_PIXELS and (tag in _PIXELS or tag > max(_PIXELS)):
                return Dataset(found), at
            if tag <= last:
                return None
            last = tag
            if length == _UNDEFINED:
                if tag in wanted:
                    return None
                at = _end_of_items(content, value_at, implicit=implicit, depth=0)
                continue
            at = value_at + length
            if tag in wanted:
                if kind == b"SQ" or at > size:
                    return None
                key = BaseTag(tag)
                vr = kind.decode() if kind else _type(tag)
                found[key] = RawDataElement(key, vr, length, content[value_at:at], value_at, implicit, True)
    except (_OddError, struct.error):
        return None


@lru_cache(maxsize=1024)
def _type(tag: int) -> str | None:
    """The type of an element of the standard, where it has but one."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return None
    return vr if len(vr) == 2 else None


def _element(content: bytes, at: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, type, first byte of the value, and its length."""
    group, element = struct.unpack_from("<HH", content, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, b"", at + 8, struct.unpack_from("<I", content, at + 4)[0]
    kind = content[at + 4 : at + 6]
    if kind in _SHORT_TYPES:
        return tag, kind, at + 8, struct.unpack_from("<H", content, at + 6)[0]
    if kind in _LONG_TYPES:
        return tag, kind, at + 12, struct.unpack_from("<I", content, at + 8)[0]
    raise _OddError


def _end_of_items(content: bytes, at: int, *, implicit: bool, depth: int) -> int:
    """The byte after a sequence of undefined length."""
    if depth > _DEEPEST:
        raise _OddError
    while True:
        tag, _, value_at, length = _element(content, at, implicit=implicit)
        if tag == _SEQUENCE_END:
            return value_at
        if tag != _ITEM:
            raise _OddError
        at = value_at + length
        if length == _UNDEFINED:
            at = value_at
            while (inner := _element(content, at, implicit=implicit))[0] != _ITEM_END:
                at = inner[2] + inner[3]
                if inner[3] == _UNDEFINED:
                    at = _end_of_items(content, inner[2], implicit=implicit, depth=depth + 1)
            at = inner[2]
