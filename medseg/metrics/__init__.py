"""Two segmentations to numbers. To add a metric: one function in one file, one row in `METRICS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.overlap import Confusion, confusion, dice, iou

__all__ = ["METRICS", "Confusion", "Metric", "confusion", "dice", "iou"]


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        name: Key in reports.
        title: For people.
        function: From the confusion counts to one value per label.
        unit: "1" for a ratio.
        best: Whether a higher or a lower value is better.
        range: Smallest and largest value.
        absent_in_reference: Value where only the prediction has the label.
        absent_in_prediction: Value where only the reference has the label.
        absent_in_both: Value where neither has the label; NaN is left out of means and counted.
    """

    name: str
    title: str
    function: Callable[[Confusion], NDArray[np.float64]]
    unit: str = "1"
    best: Literal["higher", "lower"] = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    absent_in_reference: float = 0.0
    absent_in_prediction: float = 0.0
    absent_in_both: float = float("nan")


METRICS: tuple[Metric, ...] = (
    Metric("dice", "Dice", dice),
    Metric("iou", "IoU", iou),
)
