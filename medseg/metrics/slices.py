"""Every plane of two label arrays measured for itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.metrics.comparison import Comparison
from medseg.metrics.overlap import Labels, Values
from medseg.metrics.table import Metric, measure


def measure_slices(
    reference: Labels,
    prediction: Labels,
    spacing_mm: Sequence[float],
    metrics: Sequence[Metric],
    *,
    regions: Sequence[tuple[int, ...]],
    axis: int = 2,
    ignore: int | None = None,
    tolerance_mm: float = 1.0,
) -> dict[str, Values]:
    """Measure every plane for itself, as 2D data sets are scored.

    Args:
        reference: Labels of three axes.
        prediction: Labels of the same shape.
        spacing_mm: Distance between voxel centres along each axis.
        metrics: Rows of `METRICS`.
        regions: What to measure in every plane.
        axis: The axis that planes follow one another along.
        ignore: Voxels with this label in the reference take no part.
        tolerance_mm: Of the surface Dice.

    Returns:
        Values by metric's name: (planes, n) over the regions, or (planes, 1) for a metric of the case. A plane in which
        neither has a label counts for it as absent in both.
    """
    inside = [spacing for n, spacing in enumerate(spacing_mm) if n != axis]
    planes = [
        measure(
            Comparison(
                np.take(reference, place, axis),
                np.take(prediction, place, axis),
                inside,
                regions=regions,
                ignore=ignore,
                tolerance_mm=tolerance_mm,
                voxel_mm3=float(np.prod(spacing_mm)),
            ),
            metrics,
        )
        for place in range(reference.shape[axis])
    ]
    return {metric.name: np.stack([plane[metric.name] for plane in planes]) for metric in metrics}
