"""What was found in a path, before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medseg.geometry import Shape, Spacing


@dataclass(frozen=True)
class Finding:
    """A doubt or a repair that belongs to the result, because logs get lost.

    Attributes:
        code: Short, stable, for machines: "qform-sform-differ".
        message: One sentence for people, without patient data.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


@dataclass(frozen=True)
class Series:
    """A candidate volume: files that together form one grid of voxels.

    Attributes:
        paths: The files, in the order of the slices; one file for most formats.
        format: Name of the format in `medseg.formats.FORMATS` that reads it.
        readable: Whether `read` will return a volume; if not, the findings say why.
        findings: Doubts about this series.
        shape: Voxels along (I, J, K); None where that is unknown.
        spacing_mm: Spacing along (I, J, K) in mm; None where that is unknown.
        frames: Number of volumes along a fourth axis (time, echo, ...); `read(..., frame=N)` takes one.
        modality: DICOM modality ("CT", "MR", ...) or None where the file does not say.
        description: For people; empty where it could identify a patient.
    """

    paths: tuple[Path, ...]
    format: str
    readable: bool = True
    findings: tuple[Finding, ...] = ()
    shape: Shape | None = None
    spacing_mm: Spacing | None = None
    frames: int = 1
    modality: str | None = None
    description: str = ""


@dataclass(frozen=True)
class Study:
    """All that a path holds.

    Attributes:
        series: The candidates.
        skipped: Files that are no candidate, each with the reason.
    """

    series: tuple[Series, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = field(default=())

    @property
    def readable(self) -> tuple[Series, ...]:
        """The candidates that can be read."""
        return tuple(series for series in self.series if series.readable)
