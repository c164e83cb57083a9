"""Decodes compressed pictures in a process of its own: a hostile file may kill this process, and no other.

Run as a script by `dicom_pixels`, so that it imports nothing but pydicom and its decoders. It reads requests from
stdin (length of a JSON description, the description, length of the picture, the picture) and writes replies to stdout
(number of bytes, their type, and the pixels; or 0).
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from typing import Any, BinaryIO

MOST_BYTES = 4 * 2**30  # of address space, the libraries among them
MOST_SECONDS = 60  # for one picture

_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


def main() -> None:
    """Answer requests until stdin ends."""
    limit_memory()
    warnings.simplefilter("ignore")
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(size := source.read(4)) == 4:
        request = json.loads(source.read(struct.unpack("<I", size)[0]))
        picture = source.read(struct.unpack("<Q", source.read(8))[0])
        _answer(request, picture, target)


def limit_memory(most_bytes: int = MOST_BYTES) -> None:
    """Let this process have no more than so many bytes."""
    try:
        import resource  # noqa: PLC0415 - not on Windows, which has no such limit
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(request: dict[str, Any], picture: bytes, target: BinaryIO) -> None:
    try:
        array = _decoded(request, picture)
    except Exception:  # decoders raise whatever they like; the parent names the file
        target.write(struct.pack("<Q2s", 0, b""))
    else:
        target.write(struct.pack("<Q2s", array.nbytes, array.dtype.str[1:].encode()))
        target.write(array.data)
    target.flush()


def _decoded(request: dict[str, Any], picture: bytes) -> Any:
    import numpy as np  # noqa: PLC0415 - the limits come first

    array = _quickly(request, picture)
    if array is None:
        array = _by_pydicom(request, picture)
    if array.shape != (request["rows"], request["columns"]):
        raise ValueError
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _quickly(request: dict[str, Any], picture: bytes) -> Any:
    """The values of a picture in one of the costly encodings, where it agrees with the header; else None.

    pydicom, which knows what to do where they differ, takes a third of a second to start and as long for 500 pictures.
    """
    import numpy as np  # noqa: PLC0415

    bits, is_signed = request["bits_stored"], request["pixel_representation"] == 1
    if bits > 16:
        return None
    try:
        if request["syntax"] in _JPEG_LS:
            import jpeg_ls  # noqa: PLC0415

            buffer, about = jpeg_ls.decode_pixel_data(picture)
            agrees = (about["components"], about["bits_per_sample"]) == (1, bits)
        elif request["syntax"] in _JPEG_2000 and picture[:4] == b"\xff\x4f\xff\x51":
            from openjpeg.utils import decode_pixel_data  # noqa: PLC0415

            # Number of components, then sign and bits of the first (ISO 15444-1, A.5.1).
            agrees = picture[40:43] == bytes((0, 1, is_signed << 7 | bits - 1))
            buffer = decode_pixel_data(picture, version=2) if agrees else b""
        else:
            return None
    except Exception:  # as in `_answer`
        return None
    size = 1 if bits <= 8 else 2
    if not agrees or len(buffer) != request["rows"] * request["columns"] * size:
        return None
    array = np.frombuffer(buffer, dtype=f"<{'i' if is_signed else 'u'}{size}")
    spare = 8 * size - bits
    if is_signed and spare and request["syntax"] in _JPEG_LS:  # which has no sign of its own
        array = array << spare >> spare
    return array.reshape(request["rows"], request["columns"])


def _by_pydicom(request: dict[str, Any], picture: bytes) -> Any:
    sys.modules["requests"] = None  # type: ignore[assignment] # else pydicom imports it, for downloads
    from pydicom.encaps import encapsulate  # noqa: PLC0415
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    known = request | {"number_of_frames": 1, "samples_per_pixel": 1, "pixel_keyword": "PixelData"}
    decoder = get_decoder(UID(known.pop("syntax")))
    array, _ = decoder.as_array(encapsulate([picture]), raw=True, **known)
    return array


if __name__ == "__main__":
    main()
