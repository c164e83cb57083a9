"""Where complete planes lie in memory: one after another, each with the channels last, as export reads them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


def empty_planes(like: Tensor, channels: int, shape: Sequence[int], axis: int) -> Float[Tensor, "channels i j k"]:
    """Scores without values, of some planes along an axis.

    Args:
        like: A tensor of the same type on the same device.
        channels: Classes or features.
        shape: Voxels (I, J, K).
        axis: Along which planes follow one another.
    """
    across = [n for a, n in enumerate(shape) if a != axis]
    return like.new_empty((shape[axis], *across, channels)).movedim(-1, 0).movedim(1, 1 + axis)
