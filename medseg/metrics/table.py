"""The table of metrics: what each number means, where it is undefined, and how it follows from two label arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.metrics import overlap
from medseg.metrics.centreline import centreline_dice
from medseg.metrics.comparison import Comparison, Mask
from medseg.metrics.lesions import lesion_f1
from medseg.metrics.overlap import Counted, Values
from medseg.metrics.surface import Convention, SurfaceDistances, average_distance, hausdorff, surface_dice

NAN = float("nan")
INF = float("inf")


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        name: Key in reports.
        title: For people.
        short: For the head of a column; the title, if it is short enough.
        function: From two label arrays to (n,) values, one a region, or to a single one for the case.
        about: In one sentence, with the convention.
        per: Whether there is a value for each label, or one for the case.
        unit: "1" for a ratio.
        best: Which values are better; "none" for a number that describes.
        range: Smallest and largest value.
        absent_in_reference: Value where only the prediction has the label; None where that depends on the rest.
        absent_in_prediction: Value where only the reference has the label; None where that depends on the rest.
        absent_in_both: Value where neither has the label; NaN is left out of means and counted.
        of_planes: Whether a plane of a scan can be measured for itself; a volume cannot.
    """

    name: str
    title: str
    function: Callable[[Comparison], Values]
    about: str
    per: Literal["label", "case"] = "label"
    unit: str = "1"
    best: Literal["higher", "lower", "zero", "none"] = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    absent_in_reference: float | None = 0.0
    absent_in_prediction: float | None = 0.0
    absent_in_both: float = NAN
    of_planes: bool = True
    short: str = ""

    @property
    def heading(self) -> str:
        """The short name with the unit."""
        name = self.short or self.title
        return name if self.unit == "1" else f"{name}, {self.unit}"


def measure(comparison: Comparison, metrics: Sequence[Metric]) -> dict[str, Values]:
    """Values by metric's name: (n,) over the comparison's regions, or (1,) for a metric of the case."""
    return {metric.name: np.atleast_1d(metric.function(comparison)) for metric in metrics}


def _counted(function: Callable[[Counted], Values]) -> Callable[[Comparison], Values]:
    return lambda comparison: function(comparison.counts)


def _of_case(function: Callable[[Counted], float]) -> Callable[[Comparison], Values]:
    return lambda comparison: np.array([function(comparison.confusion)])


def _of_surfaces(
    function: Callable[[SurfaceDistances, Comparison], float], convention: Convention
) -> Callable[[Comparison], Values]:
    return lambda c: np.array([function(c.surfaces(n, convention), c) for n in range(len(c.regions))], dtype=float)


def _of_masks(function: Callable[[Mask, Mask], float]) -> Callable[[Comparison], Values]:
    return lambda c: np.array([function(*c.masks(n)) for n in range(len(c.regions))], dtype=float)


def _reference_ml(c: Comparison) -> Values:
    return np.asarray(c.counts.reference_voxels * (c.voxel_mm3 / 1000))


def _prediction_ml(c: Comparison) -> Values:
    return np.asarray(c.counts.prediction_voxels * (c.voxel_mm3 / 1000))


def _difference_ml(c: Comparison) -> Values:
    absent = (c.counts.prediction_voxels == 0) & (c.counts.reference_voxels == 0)
    return np.where(absent, NAN, _prediction_ml(c) - _reference_ml(c))


def _relative_difference(c: Comparison) -> Values:
    reference = c.counts.reference_voxels
    difference = c.counts.prediction_voxels - reference
    return np.asarray(np.divide(difference, reference, out=np.full(reference.shape, NAN), where=reference > 0))


_DISTANCE = {
    "unit": "mm",
    "best": "lower",
    "range": (0.0, INF),
    "absent_in_reference": NAN,
    "absent_in_prediction": NAN,
}

METRICS: tuple[Metric, ...] = (
    Metric("dice", "Dice", _counted(overlap.dice), "2|R∩P| / (|R|+|P|)"),
    Metric("iou", "IoU", _counted(overlap.iou), "|R∩P| / |R∪P| (Jaccard)"),
    Metric(
        "sensitivity",
        "Sensitivity",
        _counted(overlap.sensitivity),
        "|R∩P| / |R| (recall)",
        absent_in_reference=NAN,
    ),
    Metric(
        "specificity",
        "Specificity",
        _counted(overlap.specificity),
        "|¬R∩¬P| / |¬R|; follows the field of view",
        absent_in_reference=None,
        absent_in_prediction=1.0,
    ),
    Metric("precision", "Precision", _counted(overlap.precision), "|R∩P| / |P|", absent_in_prediction=NAN),
    Metric(
        "reference_ml",
        "Reference volume",
        _reference_ml,
        "voxels times the volume of one",
        unit="ml",
        best="none",
        range=(0.0, INF),
        absent_in_prediction=None,
        absent_in_both=0.0,
        of_planes=False,
        short="Reference",
    ),
    Metric(
        "prediction_ml",
        "Predicted volume",
        _prediction_ml,
        "voxels times the volume of one",
        unit="ml",
        best="none",
        range=(0.0, INF),
        absent_in_reference=None,
        absent_in_both=0.0,
        of_planes=False,
        short="Predicted",
    ),
    Metric(
        "difference_ml",
        "Volume difference",
        _difference_ml,
        "prediction less reference",
        unit="ml",
        best="zero",
        range=(-INF, INF),
        absent_in_reference=None,
        absent_in_prediction=None,
        of_planes=False,
        short="Difference",
    ),
    Metric(
        "relative_difference",
        "Relative volume difference",
        _relative_difference,
        "(prediction less reference) / reference",
        best="zero",
        range=(-1.0, INF),
        absent_in_reference=NAN,
        absent_in_prediction=-1.0,
        of_planes=False,
        short="Relative difference",
    ),
    Metric(
        "hausdorff_mm",
        "Hausdorff distance",
        _of_surfaces(lambda d, _: hausdorff(d), "voxels"),
        "largest distance between the border voxels of the two, either way (as MONAI)",
        **_DISTANCE,  # type: ignore[arg-type]  # mypy does not look into the dictionary
        short="HD",
    ),
    Metric(
        "hausdorff95_mm",
        "Hausdorff distance, 95th percentile",
        _of_surfaces(lambda d, _: hausdorff(d, 95), "voxels"),
        "the larger of the two directions' 95th percentiles, border voxels (as MONAI)",
        **_DISTANCE,  # type: ignore[arg-type]
        short="HD 95 %",
    ),
    Metric(
        "assd_mm",
        "Average symmetric surface distance",
        _of_surfaces(lambda d, _: average_distance(d), "voxels"),
        "mean over the border voxels of both (as MONAI, symmetric)",
        **_DISTANCE,  # type: ignore[arg-type]
        short="ASSD",
    ),
    Metric(
        "surface_dice",
        "Surface Dice at the tolerance",
        _of_surfaces(lambda d, c: surface_dice(d, c.tolerance_mm), "elements"),
        "share of both surfaces within the tolerance of the other, by area of surface elements (as surface-distance)",
        short="Surface Dice",
    ),
    Metric(
        "centreline_dice",
        "Centre-line Dice",
        _of_masks(centreline_dice),
        "for tubes: how much of each skeleton lies in the other mask (clDice)",
        short="clDice",
    ),
    Metric(
        "lesion_f1",
        "Lesion-wise F1",
        _of_masks(lesion_f1),
        "connected pieces (26 neighbours) that have a voxel in common count as found",
        short="Lesion F1",
    ),
    Metric(
        "mean_iou",
        "Mean IoU",
        _of_case(overlap.mean_iou),
        "over the classes that occur, background among them",
        per="case",
        absent_in_reference=None,
        absent_in_prediction=None,
        absent_in_both=1.0,  # background remains, and agrees
    ),
    Metric(
        "frequency_weighted_iou",
        "Frequency-weighted IoU",
        _of_case(overlap.frequency_weighted_iou),
        "IoU of all classes, each weighted by its share of the reference",
        per="case",
        absent_in_reference=None,
        absent_in_prediction=None,
        absent_in_both=1.0,
        short="Weighted IoU",
    ),
    Metric(
        "pixel_accuracy",
        "Pixel accuracy",
        _of_case(overlap.pixel_accuracy),
        "share of voxels with the right label, background among them",
        per="case",
        absent_in_reference=None,
        absent_in_prediction=None,
        absent_in_both=1.0,
    ),
)
