"""The headers of many files: by several processes where there are many, and within limits where a header is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from medseg.formats.dicom_elements import quiet
from medseg.formats.dicom_frames import read_slices
from medseg.formats.dicom_header import LargeHeaderError, SkippedFileError
from medseg.formats.dicom_limits import in_process
from medseg.formats.dicom_slice import Slice
from medseg.resources import cores

Planes = tuple[Slice, ...] | SkippedFileError

ENOUGH_FILES = 3000  # that reading them by several processes is quicker, whose start takes a second
_MOST_PROCESSES = 8
_CHUNK = 200  # files that a process reads at a time


def read_all(paths: Sequence[Path]) -> Iterator[tuple[Path, Planes]]:
    """The planes of each file, in the order of the files, or why it has none."""
    chunks = [paths[n : n + _CHUNK] for n in range(0, len(paths), _CHUNK)]
    processes = min(cores(), _MOST_PROCESSES)
    if len(paths) < ENOUGH_FILES or processes == 1:
        results: Iterator[list[Planes]] = map(_read, chunks)
    else:
        from joblib import Parallel, delayed  # noqa: PLC0415 - seldom needed

        parallel = Parallel(n_jobs=processes, batch_size=1, return_as="generator")
        results = parallel(delayed(_read)(chunk) for chunk in chunks)
    for chunk, planes in zip(chunks, results, strict=True):
        yield from zip(chunk, planes, strict=True)


def _read(paths: Sequence[Path]) -> list[Planes]:
    with quiet():
        return [_planes(path) for path in paths]


def _planes(path: Path) -> Planes:
    try:
        try:
            return read_slices(path)
        except LargeHeaderError:
            return _within_limits(path)
    except SkippedFileError as error:
        return error


def _within_limits(path: Path) -> Planes:
    """The planes of a file whose header is large, read by a process that may take so much memory and time."""
    try:
        return in_process(partial(_limited, path))
    except SkippedFileError:
        raise
    except Exception:  # the time is over, or the process has died
        text = "a header of many megabytes that takes more memory or time than a header may; export it again"
        raise SkippedFileError(text, damaged=True) from None


def _limited(path: Path) -> tuple[Slice, ...]:
    with quiet():
        return read_slices(path, limited=True)
