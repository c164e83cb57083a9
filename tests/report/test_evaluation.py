import json
import math

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.pipeline import evaluate
from medseg.report import reoriented
from medseg.volume import Segmentation
from tests.phantoms import affine_of, axis_arrangements, rearranged_labels, rotation

NAMES = LabelSet.from_names({1: "cube", 2: "never there"})


def cube(shift: int = 0, *, labels: LabelSet | None = NAMES, spacing_mm=(1.0, 2.0, 0.5), turn=None) -> Segmentation:
    array = np.zeros((14, 12, 10), dtype=np.uint8)
    array[2 + shift : 6 + shift, 3:7, 3:7] = 1
    return Segmentation(array, Geometry(array.shape, affine_of(spacing_mm, (5, -3, 8), turn)), labels)


def test_report_tells_dice_iou_and_volumes_of_a_cube_shifted_by_half_its_width():
    row = evaluate(cube(), cube(2)).rows[0]
    assert (row.index, row.name, row.dice, row.iou) == (1, "cube", 0.5, pytest.approx(1 / 3))
    assert (row.reference_voxels, row.prediction_voxels) == (64, 64)
    assert row.reference_ml == pytest.approx(0.064)


def test_label_that_neither_has_is_left_out_of_the_mean_and_counted():
    report = evaluate(cube(), cube(2))
    assert math.isnan(report.rows[1].dice)
    assert (report.mean_dice, report.absent_in_both) == (0.5, 1)


def test_mean_of_nothing_is_nan_and_null_in_json():
    empty = Segmentation(np.zeros((2, 2, 2), np.uint8), Geometry((2, 2, 2), np.eye(4)), NAMES)
    report = evaluate(empty, empty)
    assert math.isnan(report.mean_dice)
    assert json.loads(report.to_json())["mean"] == {"dice": None, "iou": None, "labels": 0, "absent_in_both": 2}


def test_names_come_from_whichever_segmentation_has_them():
    assert evaluate(cube(labels=None), cube()).rows[0].name == "cube"
    assert evaluate(cube(), cube(labels=None)).rows[0].name == "cube"
    assert evaluate(cube(labels=None), cube(labels=None)).rows[0].name == "label 1"


def test_names_that_differ_are_a_finding():
    other = LabelSet.from_names({1: "sphere"})
    assert [finding.code for finding in evaluate(cube(), cube(labels=other)).findings] == ["label-names-differ"]
    assert evaluate(cube(), cube()).findings == ()


@pytest.mark.parametrize(("order", "signs"), axis_arrangements())
def test_same_voxels_in_any_order_of_axes_agree_fully(order, signs):
    reference = cube(turn=rotation(20, (1, 2, 3)))
    prediction = rearranged_labels(reference, order, signs)
    back = reoriented(prediction, to=reference.geometry)
    assert back is not None
    np.testing.assert_array_equal(back.array, reference.array)
    assert evaluate(reference, prediction).mean_dice == 1


@pytest.mark.parametrize(
    "other",
    [
        cube(spacing_mm=(1.0, 2.0, 0.6)),
        cube(turn=rotation(5, (0, 0, 1))),
        Segmentation(cube().array, Geometry((14, 12, 10), affine_of((1.0, 2.0, 0.5), (5.5, -3, 8)))),
    ],
    ids=["spacing", "rotation", "half a voxel"],
)
def test_other_grids_are_refused_with_the_remedy_and_compared_with_it(other):
    with pytest.raises(GeometryError, match="--resample"):
        evaluate(cube(), other)
    assert 0 < evaluate(cube(), other, resample=True).mean_dice <= 1


def test_resampling_a_finer_copy_gives_full_agreement():
    fine = cube()
    doubled = Segmentation(
        fine.array.repeat(3, 0), Geometry((42, 12, 10), affine_of((1 / 3, 2.0, 0.5), (5 - 1 / 3, -3, 8))), NAMES
    )
    assert evaluate(fine, doubled, resample=True).mean_dice == 1


def test_grids_that_do_not_touch_are_refused_even_with_resampling():
    far = Segmentation(cube().array, Geometry((14, 12, 10), affine_of((1.0, 2.0, 0.5), (5000, 0, 0))))
    with pytest.raises(GeometryError, match="overlap"):
        evaluate(cube(), far, resample=True)


def test_table_fits_eighty_columns_whatever_the_names():
    names = LabelSet.from_names({1: "a structure whose name is far longer than the table has room for"})
    text = evaluate(cube(labels=names), cube(2, labels=names)).to_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "0.5000" in text
    assert "0.3333" in text
