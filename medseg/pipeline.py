"""The whole program on one page: from a scan to its segmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from medseg.errors import GeometryError, ModelError
from medseg.formats import RESAMPLED, needs_grid, read_segmentation
from medseg.geometry import Geometry
from medseg.inference import (
    Compiler,
    Progress,
    are_worth_loading,
    export,
    features,
    highest,
    load_ahead,
    resample,
    silent,
)
from medseg.labels import LabelSet
from medseg.model import Model
from medseg.prepare import prepare_labels
from medseg.report import Measuring, Report, mapped, reoriented
from medseg.resources import memory_kept
from medseg.study import Finding
from medseg.volume import LabelSlab, Segmentation, Slab, Volume

Refiner: TypeAlias = Callable[[Iterator[Slab], Volume], Iterator[Slab]]


def segment(
    volume: Volume,
    model: Model,
    *,
    refiners: Sequence[Refiner] = (),
    device: torch.device | str = "cpu",
    spill: bool = False,
    prepared: Volume | None = None,
    compiler: Compiler | None = None,
    progress: Progress = silent,
) -> Segmentation:
    """Label every voxel of a scan.

    Planes of scores stream from the network to the labels, so peak memory depends on classes × window depth × plane,
    never on the scan's depth.

    Args:
        volume: The scan (C, I, J, K) on its own grid.
        model: What to segment with; `load_model` gives one.
        refiners: Applied in order to the slabs on the scan's own grid, such as a dense CRF.
        device: Where the network runs.
        spill: Whether planes that wait for later windows do so in a temporary file; slower, with the same labels.
        prepared: What `model.prepared(volume)` gave, if that was needed before.
        compiler: Compiles the network by torch.compile and is kept for the next scan; None runs it as it is.
        progress: Called with (windows done, windows in all).

    Returns:
        Labels (I, J, K) on the scan's own grid, in the smallest integer type that holds them.

    Raises:
        ModelError: If the scan has other channels than the model takes.
        InputError: If the scan has nothing to segment.
    """
    found, wanted = volume.array.shape[0], model.info.network.in_channels
    if found != wanted:
        raise ModelError(f"Scan has {found} channels, {model.info.name} takes {wanted}; choose another --model.")
    if are_worth_loading(volume.geometry):
        load_ahead()
    prepared = prepared or model.prepared(volume)
    with memory_kept():
        how = {"device": device, "spill": spill, "compiler": compiler, "progress": progress}
        return _segment(volume, model, refiners, prepared, **how)


def _segment(volume: Volume, model: Model, refiners: Sequence[Refiner], prepared: Volume, **how: Any) -> Segmentation:
    slabs = features(prepared, model.network, model.windows, **how)
    onto: dict[str, Any] = {"to": volume.geometry, "interpolation": model.windows.interpolation}
    if not refiners:
        return assemble(export(slabs, prepared.geometry, **onto), model.labels, volume.geometry, volume.findings)
    slabs = resample(slabs, prepared.geometry, **onto)
    for refine in refiners:
        slabs = refine(slabs, volume)
    return label(slabs, model.labels, volume.geometry, volume.findings)


def label(
    slabs: Iterable[Slab], labels: LabelSet, geometry: Geometry, findings: tuple[Finding, ...] = ()
) -> Segmentation:
    """Take the highest score of every voxel, plane by plane.

    Args:
        slabs: Complete planes on the grid of `geometry`; planes that no slab brings are background.
        labels: Channel 0 of a slab is background, channel n the nth label of the set.
        geometry: The scan's own.
        findings: Doubts that the segmentation inherits from its scan.
    """
    return assemble(highest(slabs), labels, geometry, findings)


def assemble(
    slabs: Iterable[LabelSlab], labels: LabelSet, geometry: Geometry, findings: tuple[Finding, ...] = ()
) -> Segmentation:
    """Put planes of classes together to labels.

    Args:
        slabs: Complete planes on the grid of `geometry`; planes that no slab brings are background.
        labels: Class 0 is background, class n the nth label of the set.
        geometry: The scan's own.
        findings: Doubts that the segmentation inherits from its scan.
    """
    array = np.zeros(geometry.shape, dtype=labels.dtype, order="F")  # as files hold it
    index_of_class = np.array((0, *labels.indices), dtype=labels.dtype)
    for slab in slabs:
        planes = [slice(None)] * 3
        planes[slab.axis] = slice(slab.start, slab.stop)
        array[tuple(planes)] = index_of_class[slab.classes]
    return Segmentation(array, geometry, labels, findings)


def evaluate(
    reference: Segmentation | Path | str,
    prediction: Segmentation | Path | str,
    *,
    resample: bool = False,
    measuring: Measuring | None = None,
) -> Report:
    """Measure how well a prediction agrees with its reference, label by label.

    Args:
        reference: What counts as right, or its file.
        prediction: On the same grid, whatever the order of its axes.
        resample: Bring a prediction on another grid onto the reference's by nearest neighbour, instead of refusing it.
        measuring: Metrics, tolerance, merged and ignored labels; the defaults of `Measuring`.

    Raises:
        GeometryError: If the grids differ and `resample` is not asked for, or do not touch.
        InputError: If a file cannot be read, or holds no labels.
        ConfigError: If a metric or a label is named that there is not.
    """
    reference, prediction = read_pair(reference, prediction, resample=resample)
    measuring = measuring or Measuring()
    aligned = align(prediction, reference.geometry, resample=resample)
    return Report.of(reference, mapped(aligned, measuring.mapping, reference.labels), measuring)


def align(prediction: Segmentation, grid: Geometry, *, resample: bool) -> Segmentation:
    """Bring a prediction onto its reference's grid.

    Raises:
        GeometryError: If the grids differ and `resample` is not asked for, or do not touch.
    """
    aligned = reoriented(prediction, to=grid)
    if aligned is not None:
        return aligned
    if not resample:
        raise GeometryError(
            f"The grids differ: the prediction has {prediction.geometry}, the reference {grid};"
            " compare on the reference's grid with --resample (resample=True)."
        )
    return prepare_labels(prediction, grid)


def read_pair(
    reference: Segmentation | Path | str, prediction: Segmentation | Path | str, *, resample: bool
) -> tuple[Segmentation, Segmentation]:
    """Read a reference and a prediction; one that has no grid of its own, or a part of one, comes on the other's.

    Raises:
        GeometryError: If one does not fit the other's grid and `resample` is not asked for.
        InputError: If a file cannot be read, or holds no labels.
    """
    pair = [reference, prediction]
    bare = [not isinstance(one, Segmentation) and needs_grid(one) for one in pair]
    onto = None
    for one in sorted((0, 1), key=lambda number: bare[number]):
        path = pair[one]
        if isinstance(path, Segmentation):
            onto = path.geometry
            continue
        read = read_segmentation(path, onto=onto) if bare[one] else read_segmentation(path)
        if not resample and any(finding.code == RESAMPLED for finding in read.findings):
            raise GeometryError(
                f"The grids differ: the voxels of {path} are not those of the other's grid ({onto}); compare on that"
                " grid with --resample (resample=True)."
            )
        pair[one], onto = read, read.geometry
    first, second = pair
    assert isinstance(first, Segmentation)
    assert isinstance(second, Segmentation)
    return first, second
