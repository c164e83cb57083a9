"""Files that may be hostile, read by a process of its own that may take so much memory and time, and die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydicom.uid import (
    AllTransferSyntaxes,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medseg.errors import InputError, MedsegError
from medseg.formats.base import shown
from medseg.formats.dicom_header import declared_syntax
from medseg.formats.dicom_worker import MOST_BYTES, MOST_SECONDS, limit_memory

_SMALL_BYTES = 2**21  # of a file that takes no more than seconds, whatever is in it
_BYTES_A_BYTE = 8  # of memory for each of the file, beyond what every file may have
_BYTES_A_SECOND = 2**20  # of the file, for each of which it gets so much more time
_HEAD_BYTES = 2**14

# Whose decoders a file might break, or which inflate it: all but plain pixels and runs of them.
_RISKY = {*AllTransferSyntaxes} - {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless}

_T = TypeVar("_T")


def in_process(work: Callable[[], _T], file_bytes: int = 0) -> _T:
    """What a function gives, called in a process that may take so much memory and time: more for a large file.

    Raises:
        Exception: What the function raises; one of the library's if the process died, or the time was over.
    """
    from joblib.externals.loky import ProcessPoolExecutor  # noqa: PLC0415 - seldom needed

    most_bytes, most_seconds = MOST_BYTES + _BYTES_A_BYTE * file_bytes, MOST_SECONDS + file_bytes / _BYTES_A_SECOND
    pool = ProcessPoolExecutor(max_workers=1, initializer=limit_memory, initargs=(most_bytes,))
    try:
        result: _T = pool.submit(work).result(timeout=most_seconds)
    finally:
        pool.shutdown(wait=False, kill_workers=True)
    return result


def bounded(path: Path, read: Callable[[], _T]) -> _T:
    """What a function reads from a DICOM file; within limits unless the file is small and plain.

    A file may take 4 GiB of memory and 60 s, and more in proportion to its size.

    Raises:
        InputError: If it takes more, or stops the process; and all that the function raises.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            syntax = declared_syntax(file.read(_HEAD_BYTES))
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the file.") from None
    if size <= _SMALL_BYTES and syntax not in _RISKY:
        return read()
    try:
        return in_process(read, size)
    except MedsegError:
        raise
    except Exception:  # the time is over, or the process has died
        text = "takes more memory or time than a file of its size may, or stops its decoder; export it again"
        raise InputError(f"{shown(path)}: {text}.") from None
