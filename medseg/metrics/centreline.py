"""Centre-line Dice: whether tubes (vessels, airways, nerves) are found along their length, whatever their width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def centreline_dice(reference: Mask, prediction: Mask) -> float:
    """Harmonic mean of how much of each mask's skeleton lies in the other mask (Shit et al., arXiv 2003.07311).

    Args:
        reference: Mask of one to three axes; axes of one voxel are left out.
        prediction: Mask of the same shape.

    Returns:
        0 to 1; 0 if one mask is empty, NaN if both are.
    """
    if not reference.any() and not prediction.any():
        return np.nan
    shape = [length for length in reference.shape if length > 1] or [1]
    masks = [mask.reshape(shape) for mask in (reference, prediction)]
    skeletons = [skeleton(mask) for mask in masks]
    if not all(line.any() for line in skeletons):
        return 0.0
    right, found = (
        np.count_nonzero(line & other) / np.count_nonzero(line)
        for line, other in zip(skeletons, reversed(masks), strict=True)
    )
    return 2 * right * found / (right + found) if right + found else 0.0


def skeleton(mask: Mask) -> Mask:
    """The morphological skeleton as the paper defines it (algorithm 1, carried on until nothing is left).

    It is what every erosion leaves and an opening removes: the same voxels as MONAI's `soft_skel` on a binary mask
    with enough iterations. Unlike a thinning it may be a voxel or two wide. The image's edge does not erode.
    """
    from scipy.ndimage import binary_dilation, binary_erosion  # noqa: PLC0415 - takes long to load

    cube = np.ones((3,) * mask.ndim, dtype=bool)
    line = np.zeros_like(mask)
    while True:
        eroded = binary_erosion(mask, border_value=1)
        line |= mask & ~binary_dilation(eroded, cube)
        if not eroded.any() or np.array_equal(eroded, mask):  # a mask that fills the image never wears off
            return line
        mask = eroded
