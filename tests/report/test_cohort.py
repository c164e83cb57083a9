import numpy as np
import pytest

from medseg.geometry import Geometry
from medseg.report.cohort import confidence
from medseg.report.measuring import label_index
from medseg.report.paired import holm
from medseg.report.slices import slice_axis


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_interval_of_equal_values_is_that_value_and_of_one_value_is_none():
    assert confidence([0.5, 0.5, float("nan")]) == (0.5, 0.5)
    assert confidence([0.5]) is None


@pytest.mark.parametrize(
    ("plane", "spacing_mm", "axis"),
    [("axial", (1, 1, 1), 2), ("coronal", (1, 1, 1), 1), ("sagittal", (1, 1, 1), 0), ("acquired", (4, 1, 1), 0)],
)
def test_plane_is_one_of_the_patient_and_acquired_is_across_thick_voxels(plane, spacing_mm, axis):
    geometry = Geometry((4, 5, 6), np.diag([*spacing_mm, 1.0]))
    assert slice_axis(geometry, plane) == axis
    turned = Geometry((6, 4, 5), geometry.affine[:, [2, 0, 1, 3]])
    assert slice_axis(turned, plane) == (axis + 1) % 3


def test_mapping_takes_a_name_before_a_number():
    assert label_index("7", {1: "liver", 2: "7"}) == 2
    assert label_index("7", {1: "liver"}) == 7
    assert label_index("Liver", {1: "liver"}) == 1
