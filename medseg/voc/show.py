"""A VOC result for people, beside what was published."""

from __future__ import annotations

import math

from medseg.voc.evaluator import VocResult
from medseg.voc.published import figure_lines, published


def result_text(result: VocResult, architecture: str, split: str) -> str:
    """IoU of every class, their mean, and the published figures of the architecture on sets of that name."""
    lines = [
        f"{name:<16}{'–' if math.isnan(value) else f'{100 * value:.2f}':>8}" for name, value in result.class_iou.items()
    ]
    lines.append(f"{'mean IoU':<16}{100 * result.mean_iou:>8.2f}  {result.photos} photos of {split}")
    rows = [row for row in published() if row.architecture == architecture and row.set.startswith(split)]
    rows = rows or [row for row in published() if row.architecture == architecture]
    if not rows:
        return "\n".join([*lines, f"no VOC figure of {architecture} was published"])
    lines += ["published:", *(line for row in rows for line in figure_lines(row))]
    return "\n".join(lines)
