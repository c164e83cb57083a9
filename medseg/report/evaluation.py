"""How well a prediction agrees with its reference, label by label."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from medseg.geometry import Geometry
from medseg.labels import BACKGROUND, LabelSet
from medseg.metrics import Confusion, dice, iou
from medseg.study import Finding

SCHEMA = 1

_NAME_WIDTH = 28  # what an 80-column table leaves for names


@dataclass(frozen=True)
class Row:
    """One label's agreement.

    Attributes:
        index: Number of the label in the voxels.
        name: Its name; "label N" where no file names it.
        dice: Dice similarity, NaN where neither segmentation has the label.
        iou: Intersection over union, NaN where neither segmentation has the label.
        reference_voxels: Voxels in the reference.
        prediction_voxels: Voxels in the prediction.
        reference_ml: Volume in the reference.
        prediction_ml: Volume in the prediction.
    """

    index: int
    name: str
    dice: float
    iou: float
    reference_voxels: int
    prediction_voxels: int
    reference_ml: float
    prediction_ml: float


@dataclass(frozen=True)
class Report:
    """Agreement of two segmentations on one grid.

    Attributes:
        rows: One per label that is named or occurs, in ascending order of index, without background.
        findings: Doubts about the comparison, such as names that differ.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()

    @classmethod
    def from_confusion(
        cls, pairs: Confusion, geometry: Geometry, names: dict[int, str], findings: tuple[Finding, ...] = ()
    ) -> Report:
        """From counts over a grid, and the names of the labels by index."""
        ml = geometry.voxel_volume_mm3 / 1000
        columns = (dice(pairs), iou(pairs), pairs.reference_voxels, pairs.prediction_voxels)
        rows = tuple(
            Row(index, names.get(index, f"label {index}"), float(d), float(i), int(r), int(p), int(r) * ml, int(p) * ml)
            for index, d, i, r, p in zip(pairs.indices, *columns, strict=True)
            if index != BACKGROUND
        )
        return cls(rows, findings)

    @property
    def mean_dice(self) -> float:
        """Mean over the labels that occur in either segmentation; NaN if none does."""
        return _mean([row.dice for row in self.rows])

    @property
    def mean_iou(self) -> float:
        """Mean over the labels that occur in either segmentation; NaN if none does."""
        return _mean([row.iou for row in self.rows])

    @property
    def absent_in_both(self) -> int:
        """Number of labels that neither segmentation has; the means leave them out."""
        return sum(math.isnan(row.dice) for row in self.rows)

    def to_json(self) -> str:
        """One line of JSON; what is NaN here is null there."""
        content = {
            "schema_version": SCHEMA,
            "labels": [{key: _or_none(value) for key, value in asdict(row).items()} for row in self.rows],
            "mean": {
                "dice": _or_none(self.mean_dice),
                "iou": _or_none(self.mean_iou),
                "labels": len(self.rows) - self.absent_in_both,
                "absent_in_both": self.absent_in_both,
            },
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(content, allow_nan=False)

    def to_text(self) -> str:
        """A table of at most 80 columns."""
        lines = [f"{'label':<{_NAME_WIDTH + 6}}  {'Dice':>6}  {'IoU':>6}  {'reference':>13}  {'prediction':>13}"]
        lines += [
            f"{row.index:>5} {_fit(row.name)}  {_number(row.dice)}  {_number(row.iou)}"
            f"  {_volume(row.reference_ml)}  {_volume(row.prediction_ml)}"
            for row in self.rows
        ]
        mean = f"mean of {len(self.rows) - self.absent_in_both} labels"
        lines.append(f"{mean:<{_NAME_WIDTH + 6}}  {_number(self.mean_dice)}  {_number(self.mean_iou)}")
        if self.absent_in_both:
            lines.append(f"absent in both: {self.absent_in_both}, left out of the mean")
        return "\n".join([*lines, *(f"note: {finding}" for finding in self.findings)])


def report_names(reference: LabelSet | None, prediction: LabelSet | None) -> tuple[dict[int, str], tuple[Finding, ...]]:
    """Names by index from whichever segmentation has them, the reference's first, and a finding where they differ."""
    first, second = (labels.names if labels else {} for labels in (reference, prediction))
    differ = [index for index in first if second.get(index, first[index]).casefold() != first[index].casefold()]
    names = dict(sorted({**second, **first}.items()))
    if not differ:
        return names, ()
    index = differ[0]
    message = f"Label {index} is {first[index]!r} in the reference and {second[index]!r} in the prediction."
    return names, (Finding("label-names-differ", message),)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _or_none(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> str:
    return f"{'–' if math.isnan(value) else format(value, '.4f'):>6}"


def _volume(ml: float) -> str:
    return f"{ml:>10,.{3 if ml < 100 else 1}f} ml"


def _fit(name: str) -> str:
    return f"{name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + '…':<{_NAME_WIDTH}}"
