"""What every format offers, and the few things that formats share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medseg.errors import GeometryError, InputError, MedsegError, ResourceError
from medseg.geometry import Geometry
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions, Series, SourcePlane, Study
from medseg.volume import Segmentation, Volume

RESAMPLED = "resampled"  # code of the finding that labels were brought onto another grid


class Scan(Protocol):
    """How a format looks at files: candidates among them, and the others with the reason; no voxels are read."""

    def __call__(self, paths: Sequence[Path], options: ScanOptions = ..., done: Callable[[], None] = ..., /) -> Study:
        """Scan `paths`; `done` is called after each."""


def nothing() -> None:
    """What `done` is where nobody wants to know."""


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation: the name and version that a file shall bear.

    Attributes:
        automatic: Whether no person took part; False where it is not known.
    """

    name: str
    version: str
    automatic: bool = True


@dataclass(frozen=True)
class Onto:
    """How labels are wanted that are stored without a grid, or on a part of one.

    Attributes:
        geometry: The grid on which to put them; None for the file's own.
        source: Files of the series that they belong to, to compare with what the file refers to.
        names: The labels to read; all where none is named.
    """

    geometry: Geometry | None = None
    source: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()


Writer = Callable[[Segmentation, Path, Sequence[Path | SourcePlane], Algorithm], tuple[Finding, ...]]


@dataclass(frozen=True)
class Format:
    """One file format. To add one: a file in this folder that makes a `Format`, and its name in `FORMATS`.

    Attributes:
        name: What `Series.format` says.
        recognises: Whether a file is this format's, from its path and its first bytes (already inflated if gzip).
            True also for a file whose name promises the format, so that `scan` can say what is wrong with it.
        scan: Candidates among the files that were recognised, and the others with the reason. Reads no voxels.
        read: The voxels of one candidate; `frame` chooses along a fourth axis.
        read_segmentation: The labels of one candidate; None if the format holds intensities alone.
        write: Writes labels to a path with one of `suffixes`; None if the format is only read.
        suffixes: Endings that `write` takes, the customary one first.
        read_onto: Instead of `read_segmentation` for a format that holds labels alone; such a file is no scan.
        outputs: Writers by output type that need the series which was segmented.
    """

    name: str
    recognises: Callable[[Path, bytes], bool]
    scan: Scan
    read: Callable[[Series, int | None], Volume]
    read_segmentation: Callable[[Series], Segmentation] | None = None
    write: Callable[[Segmentation, Path], None] | None = None
    suffixes: tuple[str, ...] = ()
    read_onto: Callable[[Series, Onto], Segmentation] | None = None
    outputs: Mapping[str, Writer] = field(default_factory=dict)


def shown(found: Path | str) -> str:
    """A path or text for a one-line message: characters that would break or forge the line become "?"."""
    return "".join(c if c.isprintable() else "?" for c in str(found))


def by(sizes: Sequence[int]) -> str:
    """Sizes for people: "512 × 512 × 30"."""
    return " × ".join(map(str, sizes))


def refused(paths: tuple[Path, ...], name: str, error: MedsegError, *doubts: Finding) -> Series:
    """A candidate that cannot be read, with the reason as its first finding."""
    code = "geometry-refused" if isinstance(error, GeometryError) else "input-refused"
    return Series(paths, name, readable=False, findings=(Finding(code, str(error)), *doubts))


def each_for_itself(name: str, look: Callable[[Path], Series]) -> Scan:
    """The scan of a format of which every file is a candidate of its own.

    Args:
        name: The format's.
        look: Gives the candidate in a file; where it raises an error, the candidate cannot be read for this reason.
    """

    def scan(
        paths: Sequence[Path], options: ScanOptions = DEFAULT_OPTIONS, done: Callable[[], None] = nothing, /
    ) -> Study:
        found = []
        for path in paths:
            try:
                found.append(look(path))
            except MedsegError as error:
                found.append(refused((path,), name, error))
            done()
        return Study(tuple(found))

    return scan


def allocate(shape: Sequence[int], dtype: DTypeLike, path: Path) -> NDArray[Any]:
    """An array that is not filled yet.

    Raises:
        ResourceError: If there is not enough memory.
    """
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError:
        gib = np.prod(shape, dtype=float) * np.dtype(dtype).itemsize / 2**30
        raise ResourceError(
            f"{shown(path)}: {by(shape)} voxels need {gib:.1f} GiB of memory; close other programs or crop the scan."
        ) from None


def check_intensities(array: NDArray[Any], path: Path) -> None:
    """Turn away an image that holds nothing to segment.

    Raises:
        InputError: If a voxel is NaN or infinite, or all voxels are the same.
    """
    low, high = array.min(), array.max()  # NaN and infinity surface in one of the two, without a mask as large
    if not (np.isfinite(low) and np.isfinite(high)):
        kind = "NaN" if np.isnan(low) else "infinite"
        raise InputError(f"{shown(path)}: has {kind} voxels; replace them, for instance by the background's value.")
    if low == high:
        raise InputError(f"{shown(path)}: an empty image, every voxel is {low:g}; check how it was exported.")


def as_labels(array: NDArray[Any], path: Path) -> NDArray[np.integer[Any]]:
    """Label indices in the smallest unsigned type, from voxels of any type whose values are whole numbers.

    Raises:
        InputError: If a voxel is negative, or is not a whole number.
    """
    if array.dtype == np.uint8:  # there is nothing to check, and no smaller type
        return array
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)) or (array.dtype.kind == "f" and np.any(array != np.rint(array))):
        raise InputError(f"{shown(path)}: holds values that are not whole numbers, so no labels; give a label file.")
    if low < 0:
        raise InputError(f"{shown(path)}: holds the negative label {low:g}; number labels from 1, background 0.")
    if high > np.iinfo(np.uint32).max:
        raise InputError(f"{shown(path)}: holds the label {high:g}, beyond 32 bits; number labels from 1.")
    return array.astype(np.min_scalar_type(int(high)), copy=False)
