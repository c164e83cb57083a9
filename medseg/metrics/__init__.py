"""Two label arrays to numbers. To add a metric: one function in one file, one row in `METRICS`.

comparison = Comparison(reference, prediction, spacing_mm=(1, 1, 3))
measure(comparison, METRICS)["dice"]  # one value for each of comparison.regions
"""

from medseg.metrics.calibration import Reliability
from medseg.metrics.centreline import centreline_dice, skeleton
from medseg.metrics.comparison import Comparison
from medseg.metrics.lesions import Detection, detection, lesion_f1
from medseg.metrics.overlap import (
    Confusion,
    Counts,
    confusion,
    dice,
    frequency_weighted_iou,
    iou,
    mean_iou,
    pixel_accuracy,
    precision,
    sensitivity,
    specificity,
)
from medseg.metrics.slices import measure_slices
from medseg.metrics.surface import SurfaceDistances, average_distance, hausdorff, surface_dice, surface_distances
from medseg.metrics.table import METRICS, Metric, measure

__all__ = [
    "METRICS",
    "Comparison",
    "Confusion",
    "Counts",
    "Detection",
    "Metric",
    "Reliability",
    "SurfaceDistances",
    "average_distance",
    "centreline_dice",
    "confusion",
    "detection",
    "dice",
    "frequency_weighted_iou",
    "hausdorff",
    "iou",
    "lesion_f1",
    "mean_iou",
    "measure",
    "measure_slices",
    "pixel_accuracy",
    "precision",
    "sensitivity",
    "skeleton",
    "specificity",
    "surface_dice",
    "surface_distances",
]
