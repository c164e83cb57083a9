import json

import numpy as np
import pytest

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.report import statistics
from medseg.volume import Segmentation, Volume
from tests.phantoms import affine_of
from tests.tiny import phantom

NAMES = LabelSet.from_names({1: "dim", 3: "never there", 4: "bright"})


def measured(array: np.ndarray, *, modality: str | None = None) -> dict:
    geometry = Geometry(array.shape[1:], affine_of((1.0, 0.5, 3.0)))
    numbers = np.zeros(geometry.shape, dtype=np.uint8)
    numbers[array[0] == 150] = 1
    numbers[array[0] == 280] = 4
    return statistics(Volume(array, geometry, modality), Segmentation(numbers, geometry, NAMES), NAMES)


def test_volume_of_a_box_is_its_edges_multiplied_in_mm():
    dim, _, bright = measured(phantom()[None])["labels"]
    assert (dim["voxels"], dim["volume_mm3"], dim["volume_ml"]) == (216, 324, 0.324)
    assert (bright["voxels"], bright["volume_mm3"]) == (48, 72)


def test_mean_intensity_is_that_of_the_scan_and_null_for_nothing():
    dim, absent, bright = measured(phantom()[None])["labels"]
    assert (dim["mean_intensity"], bright["mean_intensity"]) == (150, 280)
    assert absent == {
        "index": 3,
        "name": "never there",
        "voxels": 0,
        "volume_mm3": 0,
        "volume_ml": 0,
        "mean_intensity": None,
        "touches_border": False,
    }


def test_mean_intensity_of_several_channels_is_a_list():
    numbers = measured(np.stack([phantom(), 2 * phantom()]))
    assert numbers["labels"][0]["mean_intensity"] == [150, 300]


def test_label_in_the_corner_touches_the_border_and_the_inner_one_does_not():
    dim, _, bright = measured(phantom()[None])["labels"]
    assert (dim["touches_border"], bright["touches_border"]) == (False, True)


def test_the_only_plane_of_a_2d_scan_is_no_border():
    dim, _, bright = measured(phantom()[None, :, :, 5:6])["labels"]
    assert (dim["voxels"], dim["touches_border"], bright["voxels"]) == (36, False, 0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_and_many_chunks_do_not_change_the_numbers(order, monkeypatch):
    expected = measured(phantom()[None])
    monkeypatch.setattr("medseg.report.structures._PLANES_AT_ONCE_VOXELS", 700)
    assert measured(np.array(phantom()[None], order=order)) == expected


def test_statistics_of_ct_are_in_hounsfield_units_and_fit_into_json():
    numbers = measured(phantom()[None], modality="CT")
    assert numbers["intensity_unit"] == "HU"
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
