"""Mirrored passes through a network: test-time augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from jaxtyping import Float
from torch import Tensor


def mirrorings(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every set of axes that can be mirrored together; the first is empty, the plain pass."""
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


def mirror(x: Float[Tensor, "b c *space"], axes: Sequence[int]) -> Float[Tensor, "b c *space"]:
    """Flip spatial axes; doing it twice gives back `x`."""
    return x.flip([2 + axis for axis in axes]) if axes else x


def swapped(
    scores: Float[Tensor, "b classes *space"], axes: Sequence[int], swaps: Sequence[tuple[int, int]]
) -> Float[Tensor, "b classes *space"]:
    """Scores of left and right in each other's place, if a mirror along the first axis has changed the sides."""
    if 0 not in axes or not swaps:
        return scores
    order = list(range(scores.shape[1]))
    for one, other in swaps:
        order[one], order[other] = other, one
    return scores[:, order]
