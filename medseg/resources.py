"""Memory and disk: what was used, and when it was not enough. Imports nothing heavy."""

from __future__ import annotations

import errno
import sys

from medseg.errors import ResourceError

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


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out while something was computed, so that less might do."""
    text = str(error)
    # By name, so that torch need not be imported to tell; torch reports memory of the CPU as a plain RuntimeError.
    gpu = type(error).__name__ == "OutOfMemoryError" or "MPS backend out of memory" in text
    return gpu or isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text


def resource_error(error: BaseException) -> ResourceError | None:
    """The one-line error for an exception that means that memory or disk ran out; None for any other."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return ResourceError(f"{where}the disk is full; free space or choose another output.")
    if type(error).__name__ == "OutOfMemoryError" or "MPS backend out of memory" in text:
        return ResourceError("The GPU's memory is not enough; close what else uses it, or choose --device cpu.")
    if out_of_memory(error):
        return ResourceError("The memory is not enough; close other programs, or crop the scan.")
    return None
