import numpy as np
import pytest

from medseg.metrics import detection, lesion_f1


def spots(*places: int, size: int = 2) -> np.ndarray:
    mask = np.zeros((40, 6, 6), dtype=bool)
    for place in places:
        mask[place : place + size, 2:4, 2:4] = True
    return mask


def test_two_of_three_lesions_found_and_one_false_alarm():
    found = detection(spots(0, 10, 20), spots(0, 11, 30))
    assert (found.found, found.missed, found.right, found.false) == (2, 1, 2, 1)
    assert found.f1 == pytest.approx(2 / 3)


def test_one_large_piece_that_joins_two_lesions_has_found_both():
    assert lesion_f1(spots(0, 6), spots(0, size=10)) == 1


def test_voxels_that_touch_at_a_corner_are_one_piece():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert detection(mask, mask).found == 1


def test_nothing_found_of_something_is_zero():
    assert lesion_f1(spots(0), spots(10)) == 0
