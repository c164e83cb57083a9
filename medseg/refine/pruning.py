"""Labels that a CRF cannot make likely anywhere, so that it need not carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.refine.operators import Kernel


@dataclass(frozen=True)
class Pruning:
    """Which labels a mean field keeps.

    Attributes:
        kept: Label numbers, ascending.
        bound: No voxel gives the dropped labels together more than this probability in any iteration.
    """

    kept: tuple[int, ...]
    bound: float


def plan_pruning(
    probabilities: Float[Tensor, "labels pixels"],
    kernels: Sequence[tuple[float | Tensor, Kernel]],
    iterations: int,
    tolerance: float,
) -> Pruning:
    """Drop as many labels as `tolerance` allows, for Potts compatibility and weights that are not negative.

    A label's message is at most W·q where q is its largest probability anywhere and W = max Σ w·n·K(n·1); the message
    of the likeliest label is at least zero. So q ← r·exp(W·q) bounds the label's probability after an iteration, with
    r the largest ratio of its probability to the voxel's likeliest label's.

    Args:
        probabilities: (L, pixels).
        kernels: With their weights.
        iterations: Of the mean field.
        tolerance: Largest bound on the dropped labels' joint probability.
    """
    ones = torch.ones_like(probabilities[:1])
    weight = float(torch.stack([w * kernel(ones) for w, kernel in kernels]).detach().sum(0).max())
    ratio = (probabilities / probabilities.amax(0)).amax(1).double()
    bound = ratio
    for _ in range(iterations):
        bound = (ratio * torch.exp(weight * bound)).clamp_max(1.0)
        bound = torch.maximum(bound, ratio)
    order = bound.argsort()
    joint = bound[order].cumsum(0)
    # A voxel's likeliest label has a ratio of one, so at least one label stays.
    dropped = int((joint <= min(tolerance, 0.5)).sum())
    return Pruning(tuple(sorted(order[dropped:].tolist())), float(joint[dropped - 1]) if dropped else 0.0)
