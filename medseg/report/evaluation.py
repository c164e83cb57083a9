"""How well a prediction agrees with its reference, label by label."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.metrics import Comparison, Confusion, measure
from medseg.report.measuring import Measuring
from medseg.report.slices import Slices, sliced
from medseg.study import Finding
from medseg.volume import Segmentation

SCHEMA = 1

_MANY_UNNAMED = 60
_NAME_WIDTH = 28  # what an 80-column table leaves for names


@dataclass(frozen=True)
class Row:
    """One label's agreement.

    Attributes:
        labels: Its number in the voxels; several of a merged region.
        name: "label N" where no file names it.
        reference_voxels: Voxels in the reference.
        prediction_voxels: Voxels in the prediction.
        shared_voxels: Voxels in both.
        voxels: All voxels that were compared.
        values: By the metric's name; NaN where the metric is undefined.
    """

    labels: tuple[int, ...]
    name: str
    reference_voxels: int
    prediction_voxels: int
    shared_voxels: int
    voxels: int
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """The label's number; the first of a merged region."""
        return self.labels[0]

    @property
    def dice(self) -> float:
        """Dice similarity; NaN where neither segmentation has the label."""
        return self.values["dice"]

    @property
    def iou(self) -> float:
        """Intersection over union; NaN where neither segmentation has the label."""
        return self.values["iou"]

    @property
    def reference_ml(self) -> float:
        """Volume in the reference."""
        return self.values["reference_ml"]

    @property
    def prediction_ml(self) -> float:
        """Volume in the prediction."""
        return self.values["prediction_ml"]

    @property
    def absent_in_both(self) -> bool:
        """Whether neither segmentation has the label."""
        return self.reference_voxels == self.prediction_voxels == 0


_ALWAYS = ("dice", "iou", "reference_ml", "prediction_ml")  # what the table of a report shows


@dataclass(frozen=True)
class Report:
    """Agreement of two segmentations on one grid.

    Attributes:
        rows: One per label that is named or occurs, in ascending order of index, without background; merged ones last.
        findings: Doubts about the comparison, such as names that differ.
        case: Values of the metrics of a whole case, by name.
        confusion: How often each label meets each other.
        slices: The values of every slice, where each was measured for itself; the rows then hold their means.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    case: Mapping[str, float] = field(default_factory=dict)
    confusion: Confusion | None = field(default=None, repr=False, compare=False)
    slices: Slices | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, reference: Segmentation, prediction: Segmentation, measuring: Measuring) -> Report:
        """Measure a prediction on the reference's grid."""
        names, findings = report_names(reference.labels, prediction.labels)
        findings = tuple(dict.fromkeys((*findings, *reference.findings, *prediction.findings)))
        geometry: Geometry = reference.geometry
        metrics = Measuring((*measuring.metrics, *_ALWAYS)).rows
        comparison = Comparison(
            reference.array,
            prediction.array,
            geometry.spacing_mm,
            ignore=measuring.ignore,
            tolerance_mm=measuring.tolerance_mm,
            voxel_mm3=geometry.voxel_volume_mm3,
        )
        present = [index for (index,) in comparison.regions]
        findings += _unnamed(names, present)
        regions = measuring.regions(names, present)
        comparison = comparison.of(tuple(regions.values()))
        if measuring.per_slice is None:
            slices, values = None, measure(comparison, metrics)
        else:
            slices = sliced(reference, prediction, measuring, comparison.regions, metrics)
            values = slices.means() | measure(comparison, [metric for metric in metrics if not metric.of_planes])
        counts = comparison.counts
        rows = tuple(
            Row(
                labels,
                name,
                int(counts.reference_voxels[n]),
                int(counts.prediction_voxels[n]),
                int(counts.shared_voxels[n]),
                counts.voxels,
                {metric.name: float(values[metric.name][n]) for metric in metrics if metric.per == "label"},
            )
            for n, (name, labels) in enumerate(regions.items())
        )
        case = {metric.name: float(values[metric.name][0]) for metric in metrics if metric.per == "case"}
        return cls(rows, findings, case, comparison.confusion, slices)

    @property
    def mean_dice(self) -> float:
        """Mean over the labels that occur in either segmentation; NaN if none does."""
        return self.mean("dice")

    @property
    def mean_iou(self) -> float:
        """Mean over the labels that occur in either segmentation; NaN if none does."""
        return self.mean("iou")

    def mean(self, metric: str) -> float:
        """Mean of a metric over the labels for which it is defined; NaN if there are none."""
        return mean_defined([row.values[metric] for row in self.rows if metric in row.values])

    @property
    def absent_in_both(self) -> int:
        """Number of labels that neither segmentation has; the means leave them out."""
        return sum(row.absent_in_both for row in self.rows)

    def to_json(self) -> str:
        """One line of JSON; what is NaN here is null there."""
        content = {
            "schema_version": SCHEMA,
            "labels": [_plain(row) for row in self.rows],
            "case": {name: or_none(value) for name, value in self.case.items()},
            "mean": {
                "dice": or_none(self.mean_dice),
                "iou": or_none(self.mean_iou),
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
        if self.slices is not None:
            lines.append("Dice and IoU are means over slices, each measured for itself")
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
    message = (
        f"Label {index} is {first[index]!r} in the reference and {second[index]!r} in the prediction; labels are "
        "compared by number, with --map names by name."
    )
    return names, (Finding("label-names-differ", message),)


def _unnamed(names: Mapping[int, str], present: Sequence[int]) -> tuple[Finding, ...]:
    """A finding about labels beyond the set where there is a set, and where there are more than label files have."""
    unknown = [str(index) for index in present if index not in names]
    if len(unknown) > _MANY_UNNAMED:
        text = f"{len(unknown)} labels that no file names: is one of the files a scan instead of labels?"
        return (Finding("many-labels", text),)
    if not names or not unknown:
        return ()
    return (Finding("label-not-in-set", f"No file names label {', '.join(unknown)}; --map gives it a meaning."),)


def mean_defined(values: list[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def or_none(value: float) -> float | None:
    """The number, or None for one that JSON does not have."""
    return value if math.isfinite(value) else None


def _plain(row: Row) -> dict[str, Any]:
    values = {name: or_none(value) for name, value in row.values.items()}
    voxels = {"reference_voxels": row.reference_voxels, "prediction_voxels": row.prediction_voxels}
    return {"index": row.index, "labels": list(row.labels), "name": row.name, **values, **voxels}


def _number(value: float) -> str:
    return f"{'–' if math.isnan(value) else format(value, '.4f'):>6}"


def _volume(ml: float) -> str:
    return f"{ml:>10,.{3 if ml < 100 else 1}f} ml"


def _fit(name: str) -> str:
    return f"{name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + '…':<{_NAME_WIDTH}}"
