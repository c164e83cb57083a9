"""A scan measured slice by slice, as 2D data sets are scored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.metrics import Metric, measure_slices
from medseg.orientations import orientation_of
from medseg.report.measuring import Measuring, Plane
from medseg.volume import Segmentation

_WORLD_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Slices:
    """Values of every slice.

    Attributes:
        axis: The voxel axis of the reference that slices follow one another along.
        values: By the metric's name, (slices, n) over the regions, or (slices, 1) for a metric of the case.
        used: (slices, n) whether the reference or the prediction has the region there.
    """

    axis: int
    values: Mapping[str, NDArray[np.float64]]
    used: NDArray[np.bool_]

    def means(self) -> dict[str, NDArray[np.float64]]:
        """By the metric's name, the mean over the slices in which it is defined; NaN where there are none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of slices without a value: NaN is what is wanted
            return {name: np.nanmean(values, axis=0) for name, values in self.values.items()}


def slice_axis(geometry: Geometry, plane: Plane) -> int:
    """The voxel axis across a plane, the nearest one in an oblique scan; "acquired" is across the thickest voxels."""
    if plane == "acquired":
        spacing = np.array(geometry.spacing_mm)
        # Of axes of equal steps the last one, as files have their slices.
        return int(np.flatnonzero(spacing >= spacing.max() * (1 - 1e-3))[-1])
    return int(np.flatnonzero(orientation_of(geometry.affine)[:, 0] == _WORLD_AXIS[plane])[0])


def sliced(
    reference: Segmentation,
    prediction: Segmentation,
    measuring: Measuring,
    regions: Sequence[tuple[int, ...]],
    metrics: Sequence[Metric],
) -> Slices:
    """Measure every slice in the plane that `measuring` names; metrics of volumes are left out."""
    assert measuring.per_slice is not None
    axis = slice_axis(reference.geometry, measuring.per_slice)
    values = measure_slices(
        reference.array,
        prediction.array,
        reference.geometry.spacing_mm,
        [metric for metric in metrics if metric.of_planes],
        regions=regions,
        axis=axis,
        ignore=measuring.ignore,
        tolerance_mm=measuring.tolerance_mm,
    )
    return Slices(axis, values, np.isfinite(values["dice"]))
