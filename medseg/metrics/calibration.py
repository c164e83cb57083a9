"""Whether a network's probabilities are as often right as they say: Guo et al., ICML 2017 (arXiv 1706.04599)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class Reliability:
    """Counts of how confident predictions were, and how often they were right, gathered piece by piece.

    Args:
        bins: Equal parts of the confidences from 0 to 1.
    """

    def __init__(self, bins: int = 15) -> None:
        self.voxels: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self.right: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self._confidence = np.zeros(bins)

    def add(self, confidence: NDArray[np.floating], is_right: NDArray[np.bool_]) -> None:
        """Take in some voxels: the probability of the class that was chosen, and whether it was the right one."""
        bins = len(self.voxels)
        confidence = confidence.ravel().astype(np.float64)
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        self.voxels += np.bincount(place, minlength=bins)
        self.right += np.bincount(place, weights=is_right.ravel(), minlength=bins).astype(np.int64)
        self._confidence += np.bincount(place, weights=confidence, minlength=bins)

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins, weighted by voxels (equation 3); NaN if empty."""
        total = int(self.voxels.sum())
        return float(np.abs(self.right - self._confidence).sum() / total) if total else math.nan
