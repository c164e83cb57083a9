"""What a dense CRF refuses, with the numbers that say why."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Softmax in half precision sums to one within about this.
_SUM_TOLERANCE = 5e-3


def check_crf(
    probabilities: Tensor,
    image: Tensor,
    *,
    spacing_mm: Sequence[float],
    smoothness_sd_mm: float,
    appearance_sd_mm: float,
    appearance_sd_value: float | Sequence[float],
    compatibility: str | Tensor,
    iterations: int,
) -> None:
    """Raise ValueError for input that `dense_crf` cannot refine."""
    _check_shapes(probabilities, image, spacing_mm)
    _check_numbers(probabilities.detach(), image.detach())
    _positive("spacing_mm", spacing_mm)
    _positive("smoothness_sd_mm", [smoothness_sd_mm])
    _positive("appearance_sd_mm", [appearance_sd_mm])
    if isinstance(appearance_sd_value, int | float):
        _positive("appearance_sd_value", [appearance_sd_value])
    else:
        _positive("appearance_sd_value", appearance_sd_value)
        if len(appearance_sd_value) != image.shape[0]:
            raise ValueError(
                f"appearance_sd_value has {len(appearance_sd_value)} entries, the image {image.shape[0]} channels; "
                f"give one number, or one for each channel."
            )
    _check_compatibility(compatibility, probabilities.shape[0])
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; it cannot be negative.")


def _check_shapes(probabilities: Tensor, image: Tensor, spacing_mm: Sequence[float]) -> None:
    dims = probabilities.ndim - 1
    if dims not in {2, 3}:
        raise ValueError(
            f"Probabilities have shape {tuple(probabilities.shape)}, expected (labels, *space) in 2D or 3D."
        )
    if image.shape[1:] != probabilities.shape[1:] or image.numel() == 0:
        raise ValueError(
            f"Probabilities have shape {tuple(probabilities.shape)}, the image {tuple(image.shape)}; expected "
            f"(labels, *space) and (channels, *space) with the same space, not empty."
        )
    if probabilities.shape[0] < 2:
        raise ValueError(f"Probabilities have {probabilities.shape[0]} label; a CRF chooses between at least two.")
    if len(spacing_mm) != dims:
        raise ValueError(f"spacing_mm has {len(spacing_mm)} entries, the image {dims} axes; give one for each.")


def _check_numbers(probabilities: Tensor, image: Tensor) -> None:
    sums = probabilities.sum(0)
    # NaN and infinity show in sums and extremes; they are counted only then.
    for name, tensor, ends in (("Probabilities", probabilities, sums), ("The image", image, image)):
        if not all(math.isfinite(float(end)) for end in torch.aminmax(ends)):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(f"{name} hold{'s' if tensor is image else ''} {bad} values that are NaN or infinite.")
    lowest = float(probabilities.min())
    if lowest < -_SUM_TOLERANCE:
        raise ValueError(f"The lowest probability is {lowest:.4g}; apply softmax to logits first.")
    low, high = float(sums.min()), float(sums.max())
    if max(1 - low, high - 1) > _SUM_TOLERANCE:
        raise ValueError(
            f"Probabilities sum to {low:.4g} … {high:.4g} over the labels, expected 1; apply softmax first."
        )


def _positive(name: str, values: Sequence[float]) -> None:
    if not all(math.isfinite(v) and v > 0 for v in values):
        shown = values[0] if len(values) == 1 else tuple(values)
        raise ValueError(f"{name} is {shown}; expected positive, finite numbers.")


def _check_compatibility(compatibility: str | Tensor, labels: int) -> None:
    if isinstance(compatibility, str):
        if compatibility != "potts":
            raise ValueError(
                f"compatibility is {compatibility!r}; expected 'potts' or a matrix of {labels} × {labels}."
            )
        return
    if tuple(compatibility.shape) != (labels, labels):
        raise ValueError(f"compatibility has shape {tuple(compatibility.shape)}, expected {(labels, labels)}.")
    if not bool(torch.isfinite(compatibility).all()):
        raise ValueError("compatibility holds values that are NaN or infinite.")
