"""Which axis of a grid runs along which axis of the patient, and how arrays are turned from one order to another.

An orientation is an array (axes, 2): for each axis of the grid the world axis that it follows most closely (0 to 2 for
right, front and top), and 1 or -1 for the direction. nibabel's orientations say the same; loading it would take longer
than a small scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Orientation: TypeAlias = NDArray[np.intp]

_POSITIVE, _NEGATIVE = "RAS", "LPI"


def orientation_of(affine: ArrayLike) -> Orientation:
    """The orientation (3, 2) of the grid of a 4x4 affine; its axes take different world axes, the clearest first.

    Args:
        affine: From voxel indices to the world (RAS+); invertible.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    u, _, v = np.linalg.svd(columns / np.linalg.norm(columns, axis=0))
    rotation = u @ v  # the closest one without shear
    found = np.zeros((3, 2), dtype=np.intp)
    for axis in np.argsort(np.min(-(rotation**2), axis=0), kind="stable"):
        world = int(np.argmax(np.abs(rotation[:, axis])))
        found[axis] = world, 1 if rotation[world, axis] > 0 else -1
        rotation[world] = 0
    return found


def orientation_named(codes: Sequence[str]) -> Orientation:
    """The orientation of codes such as "RAS"."""
    return np.array([(_POSITIVE.index(c), 1) if c in _POSITIVE else (_NEGATIVE.index(c), -1) for c in codes])


def codes_of(affine: ArrayLike) -> str:
    """Codes such as "RAS": where the indices of an affine's grid grow to, by the nearest world axis."""
    return "".join((_POSITIVE if direction > 0 else _NEGATIVE)[world] for world, direction in orientation_of(affine))


def change(start: Orientation, end: Orientation) -> Orientation:
    """What turns a grid of one orientation into one of another: for each axis the new axis, and 1 or -1."""
    place = {int(world): (axis, direction) for axis, (world, direction) in enumerate(end)}
    return np.array([(place[int(world)][0], direction * place[int(world)][1]) for world, direction in start])


def turned(array: NDArray[Any], by: Orientation) -> NDArray[Any]:
    """A view of an array (..., I, J, K) with its last axes flipped and put in the order of `by`."""
    before = array.ndim - len(by)
    flips = tuple(before + axis for axis, (_, direction) in enumerate(by) if direction < 0)
    flipped: NDArray[Any] = np.flip(array, flips)
    return flipped.transpose(*range(before), *(before + np.argsort(by[:, 0])))


def unturned(by: Orientation, shape: Sequence[int]) -> NDArray[np.float64]:
    """4x4 matrix from the indices of a turned array to those of the array, of this shape, before it was."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (new, direction) in enumerate(by):
        matrix[axis, new] = direction
        matrix[axis, 3] = 0 if direction > 0 else shape[axis] - 1
    return matrix
