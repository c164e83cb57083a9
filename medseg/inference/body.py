"""The box around the body: what a sweep needs to see of a scan that has much air around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.volume import Volume

_COARSE = 4  # voxels: noise is averaged over cubes of this length
_SHARE = 0.1  # of the range of intensities, from the air's: more is body
_MARGIN = 8  # voxels that are kept around it


def around_body(prepared: Volume) -> Volume:
    """A prepared scan without the planes at its sides that hold nothing but air.

    Air is what the lowest intensities are; a cube of some voxels is body where its mean lies a tenth of the way or more
    from the lowest to the highest such mean, in any channel.

    Args:
        prepared: (C, I, J, K).

    Returns:
        A view of the box around the body, and some voxels of air; everything, if all is air or nothing is.
    """
    seen = np.zeros([-(-n // _COARSE) for n in prepared.geometry.shape], dtype=bool)
    for channel in prepared.array:
        means = _means(channel)
        low, high = float(means.min()), float(means.max())
        seen |= means > low + _SHARE * (high - low)
    if not seen.any():
        return prepared
    box = []
    for axis, n in enumerate(prepared.geometry.shape):
        places = np.flatnonzero(seen.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(places[0]) * _COARSE - _MARGIN, 0), min(int(places[-1] + 1) * _COARSE + _MARGIN, n)))
    array = prepared.array[:, *box]
    affine = prepared.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return replace(prepared, array=array, geometry=Geometry(array.shape[1:], affine))


def _means(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of cubes of voxels; those at the upper ends may be smaller."""
    for axis in range(3):
        starts = np.arange(0, channel.shape[axis], _COARSE)
        count = np.diff(starts, append=channel.shape[axis])
        channel = np.add.reduceat(channel, starts, axis=axis) / np.expand_dims(
            count, [a for a in range(3) if a != axis]
        )
    return channel.astype(np.float32)
