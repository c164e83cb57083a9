"""Decodes compressed pictures in a process of its own: a hostile file may kill this process, and no other.

Run as a script by `dicom_pixels`, so that it imports nothing but pydicom and its decoders. It reads requests from
stdin (length of a JSON description, the description, length of the picture, the picture) and writes replies to stdout
(number of bytes and the pixels, or 0).
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from typing import Any, BinaryIO

MOST_BYTES = 4 * 2**30  # of address space, the libraries among them
MOST_SECONDS = 60  # for one picture


def main() -> None:
    """Answer requests until stdin ends."""
    _limit_memory()
    warnings.simplefilter("ignore")
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(size := source.read(4)) == 4:
        request = json.loads(source.read(struct.unpack("<I", size)[0]))
        picture = source.read(struct.unpack("<Q", source.read(8))[0])
        _answer(request, picture, target)


def _limit_memory() -> None:
    try:
        import resource  # noqa: PLC0415 - not on Windows, which has no such limit
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(request: dict[str, Any], picture: bytes, target: BinaryIO) -> None:
    try:
        pixels = _decoded(request, picture)
    except Exception:  # decoders raise whatever they like; the parent names the file
        pixels = b""
    target.write(struct.pack("<Q", len(pixels)) + pixels)
    target.flush()


def _decoded(request: dict[str, Any], picture: bytes) -> bytes:
    from pydicom.encaps import encapsulate  # noqa: PLC0415 - the limits come first
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    decoder = get_decoder(UID(request.pop("syntax")))
    request |= {"number_of_frames": 1, "samples_per_pixel": 1, "pixel_keyword": "PixelData"}
    array, _ = decoder.as_array(encapsulate([picture]), raw=True, **request)
    if array.shape != (request["rows"], request["columns"]):
        return b""
    return array.astype("<i8" if array.itemsize > 4 else f"<i{2 * array.itemsize}", copy=False).tobytes()


if __name__ == "__main__":
    main()
