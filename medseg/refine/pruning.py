"""Labels that a CRF cannot make likely anywhere, so that it need not carry them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# So many stay in the cache.
_PIXELS_AT_ONCE = 8192

_log = logging.getLogger(__name__)


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
    weight: float,
    iterations: int,
    tolerance: float,
) -> Pruning:
    """Drop as many labels as `tolerance` allows, for Potts compatibility and weights that are not negative.

    A label's message is at most W·q where q is its largest probability anywhere and W the weight; the message of the
    likeliest label is at least zero. So q ← r·exp(W·q) bounds the label's probability after an iteration, with
    r the largest ratio of its probability to the voxel's likeliest label's.

    Args:
        probabilities: (L, pixels).
        weight: max Σ w·n·K(n·1), the largest message that a label of probability one everywhere could get.
        iterations: Of the mean field.
        tolerance: Largest bound on the dropped labels' joint probability.
    """
    parts = torch.split(probabilities, _PIXELS_AT_ONCE, dim=1)
    ratio = torch.stack([(part / part.amax(0)).amax(1) for part in parts]).amax(0).double()
    bound = ratio
    for _ in range(iterations):
        bound = (ratio * torch.exp(weight * bound)).clamp_max(1.0)
        bound = torch.maximum(bound, ratio)
    order = bound.argsort()
    joint = bound[order].cumsum(0)
    # A voxel's likeliest label has a ratio of one, so at least one label stays.
    dropped = int((joint <= min(tolerance, 0.5)).sum())
    return Pruning(tuple(sorted(order[dropped:].tolist())), float(joint[dropped - 1]) if dropped else 0.0)


def likely_labels(
    probabilities: Float[Tensor, "labels pixels"], weight: Callable[[], float], iterations: int, tolerance: float
) -> tuple[int, ...]:
    """The labels that `plan_pruning` keeps, and a log entry about the others; all without a tolerance."""
    labels = len(probabilities)
    if tolerance <= 0:
        return tuple(range(labels))
    plan = plan_pruning(probabilities.detach(), weight(), iterations, tolerance)
    _log.info("CRF keeps %d of %d labels; the others stay below %.2g together.", len(plan.kept), labels, plan.bound)
    return plan.kept


def with_pruned_labels(q: Float[Tensor, "kept ..."], kept: tuple[int, ...], labels: int) -> Float[Tensor, "labels ..."]:
    """The kept labels among all, with zeros for the others."""
    if len(kept) == labels:
        return q
    return q.new_zeros(labels, *q.shape[1:]).index_copy(0, torch.tensor(kept, device=q.device), q)
