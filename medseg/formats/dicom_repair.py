"""Values of the planes of a stack, brought onto its regular grid by linear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.base import allocate
from medseg.formats.dicom_stack import JITTER_IN_PLANE, Stack


def on_grid(planes: NDArray[Any], stack_: Stack) -> NDArray[Any]:
    """Interpolate between the planes.

    Args:
        planes: Values (planes, J, I), as the stack has them in order.
        stack_: Where they lie.

    Returns:
        Values (K, J, I) of the stack's grid in the same type, integers rounded; a plane that lies on the grid
        is kept as it is.
    """
    if stack_.is_exact:
        return planes
    count = stack_.geometry.shape[2]
    result = allocate((count, *planes.shape[1:]), planes.dtype, stack_.planes[0].path)
    places = np.clip(np.arange(count), stack_.along[0], stack_.along[-1])
    after = np.clip(np.searchsorted(stack_.along, places), 1, len(planes) - 1)
    for k, upper in enumerate(after):
        low, high = stack_.along[upper - 1], stack_.along[upper]
        share = float((places[k] - low) / (high - low))
        for near, weight in ((upper - 1, 1 - share), (upper, share)):
            if weight > 1 - 1e-4:
                result[k] = _straight(planes, stack_, near)
                break
        else:
            lower_plane = _straight(planes, stack_, upper - 1).astype(np.float32)
            upper_plane = _straight(planes, stack_, upper).astype(np.float32)
            mixed = lower_plane + np.float32(share) * (upper_plane - lower_plane)
            result[k] = mixed if planes.dtype.kind == "f" else np.rint(mixed)
    return result


def _straight(planes: NDArray[Any], stack_: Stack, k: int) -> NDArray[Any]:
    """Plane k, moved to where the grid has its rows and columns."""
    from scipy import ndimage  # noqa: PLC0415 - takes long to load

    if stack_.aside is None:
        return np.asarray(planes[k])
    aside_i, aside_j = stack_.aside[k]
    if max(abs(aside_i), abs(aside_j)) <= JITTER_IN_PLANE:
        return np.asarray(planes[k])
    moved: NDArray[Any] = ndimage.shift(planes[k].astype(np.float32), (aside_j, aside_i), order=1, mode="nearest")
    return moved if planes.dtype.kind == "f" else np.rint(moved).astype(planes.dtype)
