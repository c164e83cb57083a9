"""How large and how bright each structure is, and whether the scan cuts it off."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.labels import BACKGROUND, LabelSet
from medseg.volume import Segmentation, Volume

SCHEMA = 1

_PLANES_AT_ONCE_VOXELS = 1 << 20  # voxels in hand at a time, so that memory does not grow with the scan's depth


def statistics(volume: Volume, segmentation: Segmentation, labels: LabelSet) -> dict[str, Any]:
    """Measure every label on the scan's own grid.

    Args:
        volume: The scan (C, I, J, K).
        segmentation: Its labels (I, J, K) on the same grid.
        labels: What to list, found or not.

    Returns:
        What statistics.json holds. `mean_intensity` is in the scan's stored units, a list over the channels where the
        scan has several, and null for a label without voxels. `touches_border` tells that the label reaches the first
        or last plane of an axis (of more than one plane), so that it may be larger than the scan shows.
    """
    voxels, sums = _count(volume, segmentation, size=max(labels.indices) + 1)
    on_border = _on_border(segmentation.array)
    mm3 = segmentation.geometry.voxel_volume_mm3
    rows = [
        {
            "index": label.index,
            "name": label.name,
            "voxels": int(voxels[label.index]),
            "volume_mm3": _rounded(voxels[label.index] * mm3),
            "volume_ml": _rounded(voxels[label.index] * mm3 / 1000),
            "mean_intensity": _mean(sums[:, label.index], voxels[label.index]),
            "touches_border": label.index in on_border,
        }
        for label in labels
    ]
    return {
        "schema_version": SCHEMA,
        "voxel_volume_mm3": _rounded(mm3),
        "spacing_mm": [_rounded(spacing) for spacing in segmentation.geometry.spacing_mm],
        "intensity_unit": "HU" if volume.modality == "CT" else "as stored",
        "labels": rows,
    }


def _count(volume: Volume, segmentation: Segmentation, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels (size,) and sums of intensity (C, size) by label number, in one pass."""
    voxels = np.zeros(size, dtype=np.int64)
    sums = np.zeros((len(volume.array), size))
    depth = segmentation.array.shape[2]
    planes = max(1, _PLANES_AT_ONCE_VOXELS * depth // segmentation.array.size)
    for start in range(0, depth, planes):
        numbers = segmentation.array[:, :, start : start + planes]
        inside = numbers != BACKGROUND
        chosen = numbers[inside]
        voxels += np.bincount(chosen, minlength=size)
        for number, channel in enumerate(volume.array):
            intensities = channel[:, :, start : start + planes][inside]
            sums[number] += np.bincount(chosen, weights=intensities, minlength=size)
    return voxels, sums


def _on_border(array: NDArray[np.integer[Any]]) -> set[int]:
    found: set[int] = set()
    for axis, length in enumerate(array.shape):
        if length > 1:
            found.update(np.unique(array.take((0, -1), axis=axis)).tolist())
    return found


def _mean(sums: NDArray[np.float64], voxels: np.int64) -> float | list[float] | None:
    if voxels == 0:
        return None
    means = [_rounded(total / voxels) for total in sums]
    return means[0] if len(means) == 1 else means


def _rounded(value: float) -> float:
    """Ten significant digits: beyond any scan's precision, without the noise of binary fractions."""
    return float(f"{value:.10g}")
