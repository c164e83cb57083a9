"""The same voxels in another order of axes, recognised by where they lie."""

from __future__ import annotations

import numpy as np

from medseg.geometry import Geometry
from medseg.volume import Segmentation


def reoriented(segmentation: Segmentation, to: Geometry) -> Segmentation | None:
    """Permute and flip the axes of a segmentation so that its voxels fall on another grid's.

    Args:
        segmentation: Labels (I, J, K).
        to: The wanted grid.

    Returns:
        The same voxels as a view, or None if no order of axes makes the grids one.
    """
    steps = to.index_map(segmentation.geometry)[:3, :3]  # column c: one step along the wanted grid's axis c
    axes = np.abs(steps).argmax(axis=0)
    if sorted(axes.tolist()) != [0, 1, 2]:
        return None
    backwards = steps[axes, (0, 1, 2)] < 0
    array = segmentation.array.transpose(axes.tolist())[tuple(slice(None, None, -1 if b else 1) for b in backwards)]
    to_old = np.zeros((4, 4))
    to_old[axes, (0, 1, 2)] = np.where(backwards, -1, 1)
    to_old[axes, 3] = np.where(backwards, np.array(segmentation.array.shape)[axes] - 1, 0)
    to_old[3, 3] = 1
    i, j, k = array.shape
    geometry = Geometry((i, j, k), segmentation.geometry.affine @ to_old)
    if not geometry.matches(to):
        return None
    return Segmentation(array, to, segmentation.labels, segmentation.findings)
