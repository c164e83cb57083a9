import numpy as np
import pytest

from medseg.errors import ConfigError
from medseg.metrics import METRICS, Comparison, measure, measure_slices

OF_LABELS = [metric for metric in METRICS if metric.per == "label"]
SPACING_MM = (1.0, 2.0, 0.5)


def cube(shift: int = 0, label: int = 1) -> np.ndarray:
    array = np.zeros((20, 16, 18), dtype=np.uint8)
    array[4 + shift : 12 + shift, 5:13, 6:14] = label
    return array


def value(metric, reference: np.ndarray, prediction: np.ndarray) -> float:
    comparison = Comparison(reference, prediction, SPACING_MM, regions=[(1,)])
    (number,) = measure(comparison, [metric])[metric.name]
    return number


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_keeps_what_its_row_declares(metric) -> None:
    nothing = np.zeros_like(cube())
    same = value(metric, cube(), cube())
    if metric.best != "none":
        assert same == {"higher": metric.range[1], "lower": metric.range[0], "zero": 0}[metric.best]
    cases = [(cube(), cube(2)), (nothing, cube()), (cube(), nothing)]
    declared = [None, metric.absent_in_reference, metric.absent_in_prediction]
    for (reference, prediction), wanted in zip(cases, declared, strict=True):
        found = value(metric, reference, prediction)
        assert np.isnan(found) or metric.range[0] <= found <= metric.range[1]
        if wanted is not None:
            np.testing.assert_equal(found, wanted)
    np.testing.assert_equal(value(metric, nothing, nothing), metric.absent_in_both)


@pytest.mark.parametrize("metric", OF_LABELS, ids=lambda metric: metric.name)
def test_value_does_not_depend_on_where_the_label_lies_nor_on_memory_order(metric) -> None:
    expected = value(metric, cube(), cube(1))
    moved = [np.asfortranarray(np.roll(array, (3, -4, 2), (0, 1, 2))) for array in (cube(), cube(1))]
    assert value(metric, *moved) == pytest.approx(expected)
    assert value(metric, np.asfortranarray(cube()), cube(1)) == pytest.approx(expected)


@pytest.mark.parametrize("metric", OF_LABELS, ids=lambda metric: metric.name)
def test_region_of_several_labels_is_measured_as_one_label(metric) -> None:
    reference, prediction = cube(label=3), cube(2)
    reference[4:8][reference[4:8] == 3] = 70_000 % 251  # another label number, so that the region is two labels
    numbers = tuple(int(n) for n in np.unique(reference) if n)
    comparison = Comparison(reference, prediction, SPACING_MM, regions=[(*numbers, 1)])
    assert measure(comparison, [metric])[metric.name][0] == pytest.approx(value(metric, cube(), cube(2)))


@pytest.mark.parametrize("metric", OF_LABELS, ids=lambda metric: metric.name)
def test_ignored_region_is_as_if_both_were_background_there(metric) -> None:
    if metric.name == "specificity":
        pytest.skip("its denominator is the voxels that are judged")
    reference, prediction = cube(), cube(2)
    reference[10:] = 255
    prediction_there, reference_there = prediction.copy(), reference.copy()
    prediction_there[10:] = reference_there[10:] = 0
    comparison = Comparison(reference, prediction, SPACING_MM, regions=[(1,)], ignore=255)
    expected = value(metric, reference_there, prediction_there)
    assert measure(comparison, [metric])[metric.name][0] == pytest.approx(expected)


def test_regions_are_by_default_the_labels_that_occur() -> None:
    reference = cube()
    reference[0, 0, 0] = 255
    assert Comparison(reference, cube(2, label=7), SPACING_MM, ignore=255).regions == ((1,), (7,))


def test_label_numbers_beyond_sixteen_bits_are_measured() -> None:
    reference, prediction = (array.astype(np.int64) * 3_000_000 for array in (cube(), cube(2)))
    comparison = Comparison(reference, prediction, SPACING_MM)
    assert comparison.regions == ((3_000_000,),)
    assert measure(comparison, METRICS)["hausdorff_mm"][0] == 2


def test_slice_as_a_volume_one_voxel_thick_equals_the_two_dimensional_array() -> None:
    flat = Comparison(cube()[:, :, 8], cube(3)[:, :, 8], SPACING_MM[:2])
    thick = Comparison(cube()[:, :, 8:9], cube(3)[:, :, 8:9], SPACING_MM)
    names = ["dice", "hausdorff_mm", "hausdorff95_mm", "assd_mm", "surface_dice", "centreline_dice", "lesion_f1"]
    chosen = [metric for metric in METRICS if metric.name in names]
    for name, found in measure(thick, chosen).items():
        assert found == pytest.approx(measure(flat, chosen)[name]), name


def test_volume_follows_the_voxels_own_volume_where_the_grid_is_sheared() -> None:
    comparison = Comparison(cube(), cube(), SPACING_MM, voxel_mm3=0.5)
    reference_ml = next(metric for metric in METRICS if metric.name == "reference_ml")
    assert measure(comparison, [reference_ml])["reference_ml"][0] == 512 * 0.5 / 1000


@pytest.mark.parametrize(("spacing_mm", "tolerance_mm"), [((1, 1), 1), ((1, 1, 0), 1), ((1, 1, 1), -1)])
def test_spacing_and_tolerance_that_make_no_sense_are_refused(spacing_mm, tolerance_mm) -> None:
    with pytest.raises(ConfigError, match="positive spacing"):
        Comparison(cube(), cube(), spacing_mm, tolerance_mm=tolerance_mm)


def test_slices_are_measured_each_for_itself_in_its_plane() -> None:
    prediction = cube()
    prediction[:, :, 8] = cube(3)[:, :, 8]
    values = measure_slices(cube(), prediction, SPACING_MM, METRICS, regions=[(1,)])
    dice, distance = values["dice"][:, 0], values["hausdorff_mm"][:, 0]
    assert (dice[7], dice[8]) == (1, pytest.approx(1 - 3 / 8))
    assert np.isnan(dice[0])
    assert (distance[7], distance[8]) == (0, 3)
    assert values["reference_ml"][8, 0] == pytest.approx(64 / 1000)
