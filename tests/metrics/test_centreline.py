import numpy as np
import pytest

from medseg.metrics import centreline_dice, skeleton


def tube(radius: int, length: slice = slice(4, 36)) -> np.ndarray:
    mask = np.zeros((40, 21, 21), dtype=bool)
    mask[length, 10 - radius : 11 + radius, 10 - radius : 11 + radius] = True
    return mask


def test_tube_that_is_found_too_thin_still_has_its_whole_centre_line():
    assert centreline_dice(tube(3), tube(1)) == 1


def test_half_of_a_line_gives_two_thirds():
    # Precision 1, sensitivity 1/2.
    assert centreline_dice(tube(0), tube(0, slice(4, 20))) == pytest.approx(2 / 3)


def test_branch_beside_the_vessel_counts_against_the_prediction():
    prediction = tube(0)
    prediction[4:36, 2, 2] = True
    assert centreline_dice(tube(0), prediction) == pytest.approx(2 / 3)


def test_skeleton_of_a_ball_lies_within_and_reaches_its_centre():
    grid = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3, indexing="ij"))
    ball = np.linalg.norm(grid, axis=0) <= 6
    line = skeleton(ball)
    assert line[8, 8, 8]
    assert not (line & ~ball).any()
    assert line.sum() < 0.2 * ball.sum()


def test_mask_that_fills_the_image_ends():
    assert centreline_dice(np.ones((4, 4, 4), bool), np.ones((4, 4, 4), bool)) in (0, 1)
