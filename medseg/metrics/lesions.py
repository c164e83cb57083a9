"""Lesion-wise detection: how many separate pieces are found, whatever their size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """Pieces of two masks.

    Attributes:
        found: Pieces of the reference that a piece of the prediction touches.
        missed: Pieces of the reference that none does.
        right: Pieces of the prediction that touch a piece of the reference.
        false: Pieces of the prediction that touch none.
    """

    found: int
    missed: int
    right: int
    false: int

    @property
    def f1(self) -> float:
        """Harmonic mean of found/(found+missed) and right/(right+false); NaN if there are no pieces at all."""
        lesions, pieces = self.found + self.missed, self.right + self.false
        if not lesions and not pieces:
            return np.nan
        if not self.found:
            return 0.0
        sensitivity, precision = self.found / lesions, self.right / pieces
        return 2 * sensitivity * precision / (sensitivity + precision)


def detection(reference: Mask, prediction: Mask) -> Detection:
    """Match connected pieces (voxels that share a face, an edge or a corner) that have at least one voxel in common.

    One piece may match several: a prediction that joins two lesions has found both.
    """
    from scipy.ndimage import label as components  # noqa: PLC0415 - takes long to load

    neighbours = np.ones((3,) * reference.ndim)
    lesions, n = components(reference, neighbours)
    pieces, m = components(prediction, neighbours)
    both = reference & prediction
    found, right = len(np.unique(lesions[both])), len(np.unique(pieces[both]))
    return Detection(found, n - found, right, m - right)


def lesion_f1(reference: Mask, prediction: Mask) -> float:
    """F1 of `detection`: 0 to 1; 0 if one mask is empty, NaN if both are."""
    return detection(reference, prediction).f1
