"""Labels from one format to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg import __version__
from medseg.errors import ConfigError
from medseg.formats import (
    OUTPUT_TYPES,
    Algorithm,
    candidate,
    needs_grid,
    read,
    read_segmentation,
    write,
    write_onto_source,
)
from medseg.formats.dicom import planes_of
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions


def convert(
    labels: Path,
    output: Path,
    *,
    source: Path | None = None,
    output_type: str | None = None,
    names: Sequence[str] = (),
    algorithm: str | None = None,
    frame: int | None = None,
    options: ScanOptions = DEFAULT_OPTIONS,
) -> tuple[Finding, ...]:
    """Read labels and write them in another format.

    Args:
        labels: NIfTI, DICOM SEG or RTSTRUCT.
        output: The file to write.
        source: The scan that the labels belong to; needed for DICOM output and for RTSTRUCT.
        output_type: "nifti" or one of `OUTPUT_TYPES`; None for what the output's ending says.
        names: The labels to convert; all where none is named.
        frame: Which volume of the source, where it holds several.
        options: How a doubtful source is dealt with.
        algorithm: What made the labels; where it is not given the file does not claim that they are automatic.

    Returns:
        What is doubtful about the result.

    Raises:
        ConfigError: If there is no such output type or label, or the source is needed and was not given.
        InputError: If a file cannot be read, or cannot be referred to.
        GeometryError: If the labels do not lie on the source.
        VerificationError: If the output, read back, does not hold the labels.
        ResourceError: If memory or disk is not enough.
    """
    kind = output_type or ("dicom-seg" if output.suffix.lower() == ".dcm" else "nifti")
    if kind not in {"nifti", *OUTPUT_TYPES}:
        raise ConfigError(f"Output type {kind!r} is not available; available: nifti, {', '.join(OUTPUT_TYPES)}.")
    if kind != "nifti" and source is None:
        raise ConfigError(f"{output}: a DICOM output refers to the series that was segmented; give it with --source.")
    if kind != "nifti" and output.suffix.lower() != ".dcm":
        raise ConfigError(f"{output}: --output-type {kind} is written to .dcm; give another ending.")
    series = candidate(source, options) if source is not None else None
    if kind != "nifti" and series is not None and series.format != "dicom":
        raise ConfigError(f"{source}: not a DICOM series, so no DICOM object can refer to it; give the series.")
    if series is not None and needs_grid(labels):
        scan = read(series, frame=frame)
        files = series.paths if series.format == "dicom" else ()
        segmentation = read_segmentation(labels, onto=scan.geometry, source=files, names=names)
    else:
        segmentation = read_segmentation(labels, names=names)
    findings = segmentation.findings
    if kind == "nifti" or series is None:
        write(segmentation, output)
        return findings
    made_by = Algorithm(algorithm or "unknown", "unknown" if algorithm else __version__, automatic=bool(algorithm))
    return tuple(
        dict.fromkeys((*findings, *write_onto_source(segmentation, output, kind, planes_of(series, frame), made_by)))
    )
