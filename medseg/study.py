"""What was found in a path, before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.geometry import Geometry, Shape, Spacing


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


NO_SPACING = "no-spacing"  # the code of a scan whose voxel size nobody knows


@dataclass(frozen=True)
class ScanOptions:
    """How doubtful scans are dealt with.

    Attributes:
        geometry: "repair" interpolates what is not a regular grid, with a finding; "strict" refuses it.
        prefer: "latest" takes the last made of slices that contradict one another; None refuses them.
        keep_identifiers: Whether descriptions and identifiers are shown as they are, and not as opaque ones.
    """

    geometry: Literal["repair", "strict"] = "repair"
    prefer: Literal["latest"] | None = None
    keep_identifiers: bool = False

    @property
    def strict(self) -> bool:
        """Whether nothing may be repaired."""
        return self.geometry == "strict"


DEFAULT_OPTIONS = ScanOptions()


@dataclass(frozen=True)
class SourcePlane:
    """A plane as the scanner made it: a scan that was repaired has another grid, and results refer to planes.

    Attributes:
        path: Its file.
        frame: Which picture of the file, from 0.
        instance: SOPInstanceUID, which an object that refers to the plane must name.
        sop_class: SOPClassUID, likewise.
        geometry: Where its voxels (I, J, 1) lie; `Segmentation.on` gives the labels there.
    """

    path: Path
    frame: int
    instance: str = field(repr=False)
    sop_class: str
    geometry: Geometry


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
        owner: Patient, study and series, as opaque ids or as they are; () for formats without them.
        aside: Why `predict` leaves it out where there is another candidate; "" if it does not.
        container: The archive that holds the files, which then lie in a temporary folder.
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
    owner: tuple[str, ...] = ()
    aside: str = ""
    container: Path | None = None


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

    @property
    def taken(self) -> tuple[Series, ...]:
        """The candidates that `predict` takes: all that are not left aside, unless only such can be read."""
        return tuple(series for series in self.series if not self.left_out(series))

    def left_out(self, series: Series) -> str:
        """Why `predict` does not take a candidate; "" if it does (one that cannot be read is reported as failed)."""
        return series.aside if any(one.readable and not one.aside for one in self.series) else ""
