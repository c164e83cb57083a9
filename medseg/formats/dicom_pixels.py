"""The stored values of DICOM planes: unused bits cleared, neither rescaled nor inverted."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medseg.errors import InputError
from medseg.formats.base import shown
from medseg.formats.dicom_elements import quiet
from medseg.formats.dicom_header import inflated
from medseg.formats.dicom_slice import Slice
from medseg.formats.dicom_worker import MOST_SECONDS

_LONG_TYPES = (b"OB", b"OW", b"UN")
_PIPE_BYTES = 2**19  # of a pipe to or from the decoder: a picture goes through in few pieces
_WATCH_S = 0.5  # between two looks at how long a picture takes
# So that the decoder does not give back the memory of a picture only to ask for as much again (glibc's names).
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_DECODED_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4")


class PixelError(InputError):
    """The pixels of a file are damaged or cannot be decoded."""


class Pixels:
    """Reads planes; a context manager, because compressed ones are decoded by a process of its own.

    A file of many planes is opened once, and of its pictures one is kept, so that planes are best asked for in the
    order in which the file has them.
    """

    def __init__(self) -> None:
        self._decoder: _Decoder | None = None
        self._path: Path | None = None
        self._picture: tuple[tuple[Path, int], NDArray[Any]] | None = None
        self._pictures: list[bytes | memoryview] = []
        self._plain: NDArray[np.uint8] | None = None
        self._buffer, self._compressed = _Buffer(), _Buffer()
        self._quiet = quiet()

    def __enter__(self) -> Pixels:
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._quiet.__exit__(None, None, None)
        if self._decoder is not None:
            self._decoder.close()

    def read(self, one: Slice) -> NDArray[Any]:
        """The stored values (rows, columns) of a plane, which last until the next one is read.

        Raises:
            PixelError: If the pixels are damaged or cannot be decoded.
        """
        key = (one.path, one.frame)
        if self._picture is None or self._picture[0] != key:
            try:
                self._picture = key, self._read_picture(one)
            except PixelError:
                raise
            except Exception as error:  # pydicom raises whatever it likes on damaged data
                raise _damaged(one, type(error).__name__) from None
        row, column = one.corner
        return self._picture[1][row : row + one.rows, column : column + one.columns]

    def _read_picture(self, one: Slice) -> NDArray[Any]:
        stored = one.stored
        if self._path != one.path:
            self._path, self._pictures, self._plain = one.path, [], None
            if stored.syntax.is_encapsulated:
                only = _only_fragment(one, self._compressed)
                self._pictures = list(_encapsulated(one)) if only is None else [only]
            else:
                self._plain = _plain(one, self._buffer)
        if self._plain is not None:
            return _values(self._plain, one)
        if one.frame >= len(self._pictures):
            raise _damaged(one, "the picture is missing")
        if self._decoder is None or not self._decoder.is_alive:
            self._decoder = _Decoder(self._buffer)
        return self._decoder.decode(self._pictures[one.frame], one)


def same_pixels(first: Slice, other: Slice) -> bool:
    """Whether two planes hold the same values, however they are stored.

    Raises:
        PixelError: If one of them cannot be read.
    """
    with Pixels() as pixels:
        one, two = pixels.read(first).copy(), pixels.read(other)
        return one.shape == two.shape and bool(
            np.array_equal(one * first.slope + first.intercept, two * other.slope + other.intercept)
        )


def _damaged(one: Slice, why: str) -> PixelError:
    return PixelError(f"{shown(one.path)}: its pixels cannot be decoded ({why}); copy the file again or leave it out.")


def _element(one: Slice) -> tuple[IO[bytes], int, bytes]:
    """The file, at the value of its pixels, the value's length, and its type where the file says it."""
    stored = one.stored
    if stored.syntax == DeflatedExplicitVRLittleEndian:
        file: IO[bytes] = inflated(one.path)
    else:
        file = one.path.open("rb")
    file.seek(stored.pixels_at)
    order = ">" if stored.syntax == ExplicitVRBigEndian else "<"
    head = file.read(8)
    group, number, kind = struct.unpack(f"{order}HH2s", head[:6])
    if (group, number) != (0x7FE0, 0x0010):
        file.close()
        raise _damaged(one, "no pixels")
    is_explicit = stored.syntax != ImplicitVRLittleEndian and kind in _LONG_TYPES
    length = struct.unpack(f"{order}I", file.read(4) if is_explicit else head[4:])[0]
    return file, length, kind


class _Buffer:
    """Memory that is used again: fresh memory for every picture costs more than the picture's reading."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def filled(self, stream: IO[bytes], size: int) -> NDArray[np.uint8]:
        """The next bytes of a stream, `size` of them or as many as there are."""
        if len(self._bytes) < size:
            self._bytes = np.empty(size, dtype=np.uint8)
        target = self._bytes[:size].data
        count = 0
        while count < size and (more := cast("Any", stream).readinto(target[count:])):
            count += more
        return self._bytes[:count]


def _plain(one: Slice, buffer: _Buffer) -> NDArray[np.uint8]:
    stored = one.stored
    file, length, kind = _element(one)
    with file:
        needed = stored.frames * stored.frame_bytes
        content = buffer.filled(file, min(needed, length))
    if len(content) < needed:
        raise _damaged(one, "cut short")
    if stored.syntax == ExplicitVRBigEndian and kind == b"OW" and stored.allocated == 8:
        return content[: needed // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)  # two pixels a word, the second first
    return content


def _values(content: NDArray[np.uint8], one: Slice) -> NDArray[Any]:
    stored = one.stored
    size = stored.allocated // 8
    order = ">" if stored.syntax == ExplicitVRBigEndian else "<"
    picture = content[one.frame * stored.frame_bytes :][: stored.frame_bytes]
    unsigned = picture.view(f"{order}u{size}").astype(f"=u{size}", copy=False).reshape(stored.rows, stored.columns)
    spare, unused = stored.allocated - 1 - stored.high, stored.allocated - stored.bits
    values = unsigned.view(f"=i{size}") if stored.signed else unsigned
    if unused:  # up to the highest bit and back: clears what is above and below, and spreads the sign
        values = values << spare >> unused
    return values


def _only_fragment(one: Slice, buffer: _Buffer) -> memoryview | None:
    """The picture of a file that holds one in one piece, which is nearly every one; None of others."""
    if one.stored.frames > 1:
        return None
    file, _, _ = _element(one)
    with file:
        content = buffer.filled(file, one.path.stat().st_size - file.tell()).data
    if len(content) < 16 or content[:4] != _ITEM:
        return None
    start = 8 + struct.unpack_from("<I", content, 4)[0]  # after the offset table
    if content[start : start + 4] != _ITEM or len(content) < start + 8:
        return None
    stop = start + 8 + struct.unpack_from("<I", content, start + 4)[0]
    return content[start + 8 : stop] if content[stop : stop + 4] == _END else None


def _encapsulated(one: Slice) -> Iterator[bytes]:
    file, _, _ = _element(one)
    with file:
        yield from generate_frames(file, number_of_frames=one.stored.frames)


class _Decoder:
    """The process that decodes, and its limits."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        script = str(Path(__file__).with_name("dicom_worker.py"))
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", script]  # -P: the script's folder is no place to import from
        self._process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            pipesize=_PIPE_BYTES,
            env=os.environ | _KEEP_MEMORY,
        )
        self._until = math.inf  # when a picture has taken too long; a thread for each would cost more than all else
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def decode(self, picture: bytes | memoryview, one: Slice) -> NDArray[Any]:
        """The values (rows, columns) of a compressed picture.

        Raises:
            PixelError: If it cannot be decoded, or takes more memory or time than a picture may.
        """
        stored = one.stored
        request = json.dumps(
            {
                "syntax": str(stored.syntax),
                "rows": stored.rows,
                "columns": stored.columns,
                "bits_allocated": stored.allocated,
                "bits_stored": stored.bits,
                "pixel_representation": int(stored.signed),
                "photometric_interpretation": stored.photometric,
            }
        ).encode()
        kind, content = self._ask(
            (struct.pack("<I", len(request)), request, struct.pack("<Q", len(picture)), picture),
            most=8 * stored.rows * stored.columns,
        )
        count = stored.rows * stored.columns
        if kind not in _DECODED_TYPES or len(content) != count * int(kind[1:]):
            raise _damaged(one, "damaged, or more than a picture may take")
        values = content.view(f"<{kind}")
        low, high = stored.range
        if values.min() < low or values.max() > high:
            raise _damaged(one, "values beyond its bits")
        return values.reshape(stored.rows, stored.columns)

    def _ask(self, parts: Iterable[bytes | memoryview], most: int) -> tuple[str, NDArray[np.uint8]]:
        """The type and the bytes of the reply; of no type if there is none."""
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._until = time.monotonic() + MOST_SECONDS
        try:
            for part in parts:
                stdin.write(part)
            stdin.flush()
            head = stdout.read(10)
            length, kind = struct.unpack("<Q2s", head) if len(head) == 10 else (0, b"")
            return kind.decode("ascii", "replace"), self._buffer.filled(stdout, min(length, most))
        except BrokenPipeError:
            return "", self._buffer.filled(stdout, 0)
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_S):
            if time.monotonic() > self._until:
                self._process.kill()

    @property
    def is_alive(self) -> bool:
        """Whether it has not been killed, by its limits or by a picture."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast("IO[bytes]", stream).close()
        self._process.kill()
        self._process.wait()
