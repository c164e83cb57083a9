"""Contours around pixels, and pixels within contours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.formats.contours import combine, fill, trace
from medseg.formats.rtstruct_write import decimal


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=300, deadline=None)
def test_contours_of_any_mask_enclose_its_pixels_and_its_area_exactly(mask):
    rings = trace(mask)
    assert len(rings) == ndimage.label(mask)[1]
    back, crossed = combine(rings, mask.shape)
    np.testing.assert_array_equal(back, mask)
    assert not crossed
    area = sum(abs(float(r[:, 0] @ np.roll(r[:, 1], -1) - r[:, 1] @ np.roll(r[:, 0], -1))) / 2 for r in rings)
    assert area == pytest.approx(mask.sum())


def test_contour_of_a_block_is_its_four_corners_between_the_pixels():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    (ring,) = trace(mask)
    assert sorted(map(tuple, ring)) == [(2.5, 1.5), (2.5, 3.5), (6.5, 1.5), (6.5, 3.5)]


def test_ring_is_one_contour_with_a_keyhole_of_no_width_that_runs_backwards_around_the_hole():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (ring,) = trace(mask)
    assert len(ring) == 4 + 4 + 1 + 2  # corners of both squares; one of them and the channel's end are passed twice
    assert not fill(ring, (5, 5))[2, 2]
    x, y = (ring - (2, 2)).T
    turns = np.arctan2(x * np.roll(y, -1) - y * np.roll(x, -1), x * np.roll(x, -1) + y * np.roll(y, -1)).sum()
    assert turns == pytest.approx(0)  # not in it for readers that count windings either


def test_contours_of_other_programs_within_one_another_are_holes_and_islands():
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=float)
    rings = [square * 4 + 2.5, square * 10 - 0.5, square * 2 + 3.5]  # hole, outer, island, in any order
    mask, crossed = combine([*rings, rings[1].copy(), rings[1][::-1]], (10, 10))  # and copies of the outer one
    expected = np.ones((10, 10), bool)
    expected[3:7, 3:7] = False
    expected[4:6, 4:6] = True
    np.testing.assert_array_equal(mask, expected)
    assert not crossed


@given(st.floats(-1e9, 1e9))
def test_decimal_strings_are_short_and_within_a_tenth_of_a_micron(value):
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=5.1e-5)
