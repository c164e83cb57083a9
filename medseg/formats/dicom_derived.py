"""What DICOM objects that are made from a scan have in common: SEG and RTSTRUCT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medseg.errors import GeometryError
from medseg.formats.base import shown
from medseg.formats.dicom_source import Source
from medseg.formats.planes import Labels, Planes, sample
from medseg.labels import BACKGROUND, Code, Label, LabelSet
from medseg.study import Finding
from medseg.volume import Segmentation

MANUFACTURER = "medseg"

_NAMED = 5  # labels that a finding names before it only counts
_NEXT_TO_NOTHING = 0.05  # of a label's volume: how much may change on the way to the slices without a finding


@dataclass(frozen=True, eq=False)
class Placed:
    """A segmentation on the slices of its source.

    Attributes:
        labels: (N, rows, columns).
        names: The labels that occur there; all of the segmentation's where none occurs.
        findings: What was lost on the way.
    """

    labels: Labels
    names: LabelSet
    findings: tuple[Finding, ...]


def place(segmentation: Segmentation, source: Source) -> Placed:
    """Bring a segmentation to the slices of its source, each voxel from the nearest one.

    Raises:
        GeometryError: If there are labels, and none of them is on a slice of the source.
    """
    labels = sample(segmentation, source.planes)
    wanted = _volumes(segmentation.array.transpose(2, 1, 0), Planes.of(segmentation.geometry))
    found = _volumes(labels, source.planes)
    if wanted and not found:
        raise GeometryError(
            f"No labelled voxel lies on a slice of the source: the segmentation has {segmentation.geometry};"
            " give the series that it was made from."
        )
    names = named(segmentation.labels, wanted)
    findings = [*source.findings]
    if empty := [label.name for label in names if label.index not in found]:
        text = f"{len(empty)} label(s) have no voxel and are not in the file: {_list(empty)}."
        findings.append(Finding("empty-segments", text))
    changed = [
        names[index].name
        for index, volume in found.items()
        if abs(volume - wanted[index]) > _NEXT_TO_NOTHING * wanted[index]
    ]
    if changed:
        text = f"On the slices of the source the volume of {len(changed)} label(s) is another: {_list(changed)}."
        findings.append(Finding("volume-on-source-slices", text))
    if found:
        names = LabelSet(labels=tuple(label for label in names if label.index in found))
    return Placed(labels, names, tuple(findings))


def named(labels: LabelSet | None, occurring: Iterable[int]) -> LabelSet:
    """The label set, with a name for every label that occurs without one.

    Where no label has a name and none occurs there is one label all the same, because no DICOM object is without.
    """
    known = labels.labels if labels else ()
    taken = {label.index for label in known}
    others = [index for index in occurring if index not in taken] or ([] if known else [1])
    return LabelSet(labels=(*known, *(Label(index=index, name=f"label {index}") for index in others)))


def label_set(found: Sequence[tuple[int, str, Code | None, tuple[int, int, int] | None]]) -> LabelSet:
    """Labels as a file has them: number, name, code and colour; names that occur twice get their number."""
    names = [name for _, name, _, _ in found]
    return LabelSet(
        labels=tuple(
            Label(index=index, name=name if names.count(name) == 1 else f"{name} ({index})", code=code, colour=colour)
            for index, name, code, colour in found
        )
    )


def code_of(items: Sequence[Dataset] | None) -> Code | None:
    """The first coded concept of a sequence, if it is complete."""
    if not items:
        return None
    scheme, value, meaning = (
        str(items[0].get(keyword) or "") for keyword in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
    )
    return Code(scheme=scheme, value=value, meaning=meaning) if scheme and value and meaning else None


def check_overlap(labels: Labels, mask: np.ndarray, index: int, names: LabelSet, path: Path) -> None:
    """Refuse two structures that share voxels, because a label map has one label a voxel.

    Raises:
        GeometryError: If a voxel of `mask` has another label already.
    """
    others = labels[mask]
    others = others[(others != BACKGROUND) & (others != index)]
    if len(others):
        first, second = names[int(others[0])].name, names[index].name
        raise GeometryError(
            f"{shown(path)}: {shown(first)!r} and {shown(second)!r} share {len(others)} voxels of a slice, and a"
            " label map holds one label a voxel; convert them one by one (medseg convert --roi-subset)."
        )


def tie(path: Path, source: Source | None, instances: Set[str], frame_of_reference: str) -> tuple[Finding, ...]:
    """Compare what an object refers to with the series that it is said to belong to.

    Args:
        path: The object's file, for the message.
        source: The series; None if it is not given.
        instances: SOPInstanceUIDs that the object refers to.
        frame_of_reference: The object's; "" if it has none.

    Raises:
        GeometryError: If it refers to none of the series' images and has another frame of reference.
    """
    if source is None or not instances:
        return ()
    known = {reference.instance for reference in source.references}
    dangling = instances - known
    if not dangling:
        return ()
    if not known & instances and frame_of_reference != source.frame_of_reference:
        raise GeometryError(
            f"{shown(path)}: refers to none of the source's images and has another frame of reference; give the series"
            " that it was made from."
        )
    text = f"It refers to {len(dangling)} image(s) that are not in the source; the positions alone were used."
    return (Finding("dangling-references", text),)


def _volumes(labels: Labels, planes: Planes) -> dict[int, float]:
    """Volume of every label in mm³, each plane standing for the space half-way to its neighbours."""
    gaps = np.abs(np.diff(planes.along_mm))
    ends = gaps[[0, -1]] if len(gaps) else np.array((planes.step_mm, planes.step_mm))
    thickness = (np.concatenate((ends[:1], gaps)) + np.concatenate((gaps, ends[1:]))) / 2
    volumes: dict[int, float] = {}
    for plane, depth in zip(labels, thickness, strict=True):
        values, counts = np.unique(plane[plane != BACKGROUND], return_counts=True)
        for index, count in zip(values.tolist(), counts.tolist(), strict=True):
            share = count * planes.voxel_volume_mm3 * float(depth) / planes.step_mm
            volumes[index] = volumes.get(index, 0.0) + share
    return volumes


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
