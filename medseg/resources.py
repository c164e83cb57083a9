"""Memory and disk: what was used, and when it was not enough. Imports nothing heavy."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medseg.errors import ConfigError, ResourceError

if sys.platform != "win32":
    import resource


def peak_memory_mib() -> float | None:
    """The most memory that this process has held so far; None where the system does not tell."""
    try:
        # getrusage also remembers the process that started this one, up to the moment at which the program was loaded.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - as below
            return round(next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024, 1)
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def memory_mib() -> float:
    """The memory that this process holds now; the most it has held where the system tells no more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - nothing heavy, pathlib among it
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return peak_memory_mib() or 0.0


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def megabytes(text: str) -> float:
    """A size such as 8GB, 500MB or 0.5GiB in MiB.

    Raises:
        ConfigError: If it is none.
    """
    units = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in units:
        raise ConfigError(f"Memory {text!r} is not a size; write for instance 8GB or 500MB.")
    return float(found[1]) * units[found[2].lower()] / 2**20


# glibc's numbers for mallopt, and what its own adaptation comes to once large blocks have been freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ADAPTED = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))
_KEPT = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
_keeping = threading.Lock()
_keepers = 0


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory in the process meanwhile, for what asks for the same large blocks again and again.

    By default the C library hands a large block back to the system when it is freed, and the system clears every page
    of the next one: on a virtual machine that can take as long as the network. Without glibc nothing changes.
    """
    global _keepers  # noqa: PLW0603 - the setting is the process's own
    with _keeping:
        _keepers += 1
        if _keepers == 1:
            _tune_malloc(_KEPT)
    try:
        yield
    finally:
        with _keeping:
            _keepers -= 1
            if _keepers == 0:
                _tune_malloc(_ADAPTED, trim=True)


def _tune_malloc(settings: tuple[tuple[int, int], ...], *, trim: bool = False) -> None:
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - not for those who ask for the peak alone

    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        return  # another C library
    for number, value in settings:
        library.mallopt(number, value)
    if trim:
        library.malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out while something was computed, so that less might do."""
    text = str(error)  # torch reports memory of the CPU as a plain RuntimeError
    full = "can't allocate memory" in text or "not enough memory" in text
    return full or isinstance(error, MemoryError) or _is_of_gpu(error)


def resource_error(error: BaseException) -> ResourceError | None:
    """The one-line error for an exception that means that memory or disk ran out; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return ResourceError(f"{where}the disk is full; free space or choose another output.")
    if _is_of_gpu(error):
        return ResourceError("The GPU's memory is not enough; close what else uses it, or choose --device cpu.")
    if out_of_memory(error):
        return ResourceError("The memory is not enough; close other programs, or crop the scan.")
    return None


def _is_of_gpu(error: BaseException) -> bool:
    # By name, so that torch need not be imported to tell.
    return type(error).__name__ == "OutOfMemoryError" or "MPS backend out of memory" in str(error)
