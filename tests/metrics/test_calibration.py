"""Expected calibration error against cases worked out by hand."""

import math

import numpy as np
import pytest

from medseg.metrics import Reliability


def test_error_is_the_mean_gap_of_confidence_and_accuracy_weighted_by_voxels():
    reliability = Reliability(bins=10)
    # 8 voxels say 0.95 and 6 are right: a gap of 0.2. 2 voxels say 0.55 and 1 is right: a gap of 0.05.
    reliability.add(np.array([0.95] * 8), np.array([True] * 6 + [False] * 2))
    reliability.add(np.array([0.55, 0.55]), np.array([True, False]))
    assert reliability.expected_calibration_error == pytest.approx((8 * 0.2 + 2 * 0.05) / 10)


def test_network_that_is_as_often_right_as_it_says_has_no_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, 200_000)
    reliability = Reliability()
    for part in np.array_split(confidence, 7):
        reliability.add(part, random.random(len(part)) < part)
    assert reliability.expected_calibration_error < 0.01


def test_gaps_in_opposite_directions_do_not_cancel_between_bins():
    reliability = Reliability(bins=2)
    reliability.add(np.array([0.4, 0.9]), np.array([True, False]))
    assert reliability.expected_calibration_error == pytest.approx((0.6 + 0.9) / 2)


def test_confidence_of_one_lies_in_the_last_bin_and_nothing_has_no_error():
    reliability = Reliability(bins=4)
    assert math.isnan(reliability.expected_calibration_error)
    reliability.add(np.array([1.0]), np.array([True]))
    assert reliability.voxels.tolist() == [0, 0, 0, 1]
    assert reliability.expected_calibration_error == 0
