import time

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.metrics import (
    confusion,
    dice,
    frequency_weighted_iou,
    iou,
    mean_iou,
    pixel_accuracy,
    precision,
    sensitivity,
    specificity,
)


def cube(shift: int, label: int = 1, dtype: type = np.uint8) -> np.ndarray:
    array = np.zeros((32, 20, 20), dtype=dtype)
    array[4 + shift : 12 + shift, 5:13, 6:14] = label
    return array


def test_dice_of_cube_shifted_by_half_its_width_is_one_half() -> None:
    assert dice(confusion(cube(0), cube(4)))[1] == 0.5


def test_iou_of_cube_shifted_by_half_its_width_is_one_third() -> None:
    assert iou(confusion(cube(0), cube(4)))[1] == pytest.approx(1 / 3)


def test_iou_follows_from_dice_for_random_labels() -> None:
    rng = np.random.default_rng(0)
    pairs = confusion(rng.integers(0, 6, (9, 8, 7)), rng.integers(0, 6, (9, 8, 7)))
    np.testing.assert_allclose(iou(pairs), dice(pairs) / (2 - dice(pairs)))


def test_counts_equal_a_voxel_by_voxel_count() -> None:
    rng = np.random.default_rng(1)
    reference, prediction = rng.integers(0, 4, (2, 5, 6, 7), dtype=np.uint8)
    pairs = confusion(reference, prediction)
    for row, r in enumerate(pairs.indices):
        for column, p in enumerate(pairs.indices):
            assert pairs.counts[row, column] == np.sum((reference == r) & (prediction == p))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_integer_type_and_memory_order_do_not_change_the_counts(dtype: type) -> None:
    rng = np.random.default_rng(2)
    reference, prediction = rng.integers(0, 5, (2, 11, 12, 13), dtype=np.uint8)
    expected = confusion(reference, prediction)
    flipped = np.asfortranarray(reference.astype(dtype))[::-1, :, ::-1], prediction.astype(dtype)[::-1, :, ::-1]
    got = confusion(*flipped)
    assert got.indices == expected.indices
    np.testing.assert_array_equal(got.counts, expected.counts)


def test_labels_beyond_a_byte_are_counted_under_their_own_numbers() -> None:
    pairs = confusion(cube(0, 70_000, np.int32), cube(4, 300, np.int32))
    assert pairs.indices == (0, 300, 70_000)
    np.testing.assert_array_equal(dice(pairs)[1:], [0, 0])
    np.testing.assert_array_equal(pairs.reference_voxels[1:], [0, 512])


def test_listed_label_that_neither_array_has_is_nan_rather_than_0_or_1() -> None:
    pairs = confusion(cube(0), cube(0), indices=(1, 2, 999))
    assert pairs.indices == (0, 1, 2, 999)
    np.testing.assert_array_equal(dice(pairs), [1, 1, np.nan, np.nan])


def test_ignored_voxels_of_the_reference_take_no_part_whatever_the_prediction_says() -> None:
    reference = cube(0)
    reference[4:8, 5:13, 6:14] = 255  # half of the cube is not judged
    pairs = confusion(reference, cube(4)).ignoring(255)
    assert pairs.voxels == reference.size - 256
    row = pairs.indices.index(1)
    assert (dice(pairs)[row], pairs.reference_voxels[row], pairs.prediction_voxels[row]) == (2 * 256 / 768, 256, 512)


def test_region_counts_equal_those_of_the_merged_array() -> None:
    rng = np.random.default_rng(3)
    reference, prediction = rng.integers(0, 5, (2, 9, 8, 7), dtype=np.uint8)
    counts = confusion(reference, prediction).of_regions([(1, 3), (2,), (9,)])
    merged = confusion(np.isin(reference, (1, 3)).astype(np.uint8), np.isin(prediction, (1, 3)).astype(np.uint8))
    assert dice(counts)[0] == dice(merged)[1]
    assert dice(counts)[1] == dice(confusion(reference, prediction))[2]
    assert np.isnan(dice(counts)[2])


def test_sum_of_two_cases_counts_as_one_larger_case() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 4, (2, 5, 6, 7), dtype=np.uint8), rng.integers(2, 9, (2, 5, 6, 7), dtype=np.uint8)
    both, whole = confusion(*a) + confusion(*b), confusion(np.stack([a[0], b[0]]), np.stack([a[1], b[1]]))
    assert both.indices == whole.indices
    np.testing.assert_array_equal(both.counts, whole.counts)


def test_mean_iou_and_accuracy_of_a_hand_counted_case() -> None:
    pairs = confusion(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0]))
    # IoU: background 2/4, label 1 2/3, label 2 0.
    assert mean_iou(pairs) == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert frequency_weighted_iou(pairs) == pytest.approx((3 * 2 / 4 + 2 * 2 / 3 + 1 * 0) / 6)
    assert pixel_accuracy(pairs) == pytest.approx(4 / 6)
    assert sensitivity(pairs).tolist() == pytest.approx([2 / 3, 1, 0])
    np.testing.assert_allclose(precision(pairs), [2 / 3, 2 / 3, np.nan])
    np.testing.assert_allclose(specificity(pairs), [2 / 3, 3 / 4, 1])


def test_shapes_that_differ_are_refused_with_the_remedy() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 2, 2\).*\(2, 2, 3\).*resample"):
        confusion(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 2), np.uint8))


def test_negative_label_is_refused() -> None:
    with pytest.raises(InputError, match="Label -3 is negative"):
        confusion(cube(0), cube(0, -3, np.int16))


def test_two_dimensional_arrays_are_counted_too() -> None:
    assert dice(confusion(cube(0)[:, :, 8], cube(4)[:, :, 8]))[1] == 0.5


def test_twenty_million_voxels_take_less_than_a_second() -> None:
    reference = np.zeros((512, 512, 80), np.uint8, order="F")
    reference[100:300, 100:300, 10:70] = 25
    started = time.process_time()
    confusion(reference, reference)
    assert time.process_time() - started < 1
