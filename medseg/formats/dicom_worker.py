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

# The quickest that is installed comes first; what it cannot decode the others may.
_QUICKEST = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}


def main() -> None:
    """Answer requests until stdin ends."""
    limit_memory()
    sys.modules["requests"] = None  # type: ignore[assignment] # else pydicom imports it, for downloads
    warnings.simplefilter("ignore")
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(size := source.read(4)) == 4:
        request = json.loads(source.read(struct.unpack("<I", size)[0]))
        picture = source.read(struct.unpack("<Q", source.read(8))[0])
        _answer(request, picture, target)


def limit_memory() -> None:
    """Let this process have no more than `MOST_BYTES`."""
    try:
        import resource  # noqa: PLC0415 - not on Windows, which has no such limit
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
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
    from pydicom.encaps import encapsulate  # noqa: PLC0415
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    syntax = UID(request.pop("syntax"))
    decoder = get_decoder(syntax)
    request |= {"number_of_frames": 1, "samples_per_pixel": 1, "pixel_keyword": "PixelData"}
    fragments = encapsulate([picture])
    plugins = [name for name in (_QUICKEST.get(syntax, ""),) if name in decoder.available_plugins]
    for plugin in (*plugins, ""):
        try:
            array, _ = decoder.as_array(fragments, raw=True, decoding_plugin=plugin, **request)
        except Exception:  # as in `_answer`
            if not plugin:
                raise
        else:
            break
    if array.shape != (request["rows"], request["columns"]):
        raise ValueError
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


if __name__ == "__main__":
    main()
