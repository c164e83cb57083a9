"""Files to volumes and segmentations to files. One format a file; `FORMATS` is the list of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg.formats.base import RESAMPLED, Algorithm, Format
from medseg.formats.labelled import OUTPUT_TYPES, needs_grid, read_segmentation, write, write_onto_source
from medseg.formats.scanning import FORMATS, candidate, format_of, only, scan
from medseg.study import DEFAULT_OPTIONS, ScanOptions, Series
from medseg.volume import Volume

__all__ = [
    "FORMATS",
    "OUTPUT_TYPES",
    "RESAMPLED",
    "Algorithm",
    "Format",
    "candidate",
    "needs_grid",
    "read",
    "read_segmentation",
    "scan",
    "write",
    "write_onto_source",
]


def read(
    path_or_series: Path | str | Series, *, frame: int | None = None, options: ScanOptions = DEFAULT_OPTIONS
) -> Volume:
    """Read a scan.

    Args:
        path_or_series: What `scan` takes and holds one scan, or one of the candidates that `scan` found.
        frame: Which volume to take, from 0, where a file holds several (time, echo, ...).
        options: How doubtful scans are dealt with; a candidate brings those that it was found with.

    Returns:
        Voxels (C, I, J, K) on the scan's own grid; integers keep their type unless the file scales them (float32).

    Raises:
        InputError: If there is no scan or more than one, or it is damaged, empty or of a kind that is not read.
        GeometryError: If the file does not tell, or contradicts itself about, where the voxels lie.
        ResourceError: If there is not enough memory.
    """
    series, others = only(path_or_series, options)
    volume = format_of(series).read(series, frame)
    return replace(volume, findings=(*volume.findings, *others))
