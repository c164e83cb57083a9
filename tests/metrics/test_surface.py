import numpy as np
import pytest

from medseg.metrics import average_distance, hausdorff, surface_dice, surface_distances
from medseg.metrics.surface import element_areas


def box(size=(20, 20, 20), start=(5, 5, 5), lengths=(6, 6, 6)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[tuple(slice(s, s + n) for s, n in zip(start, lengths, strict=True))] = True
    return mask


@pytest.mark.parametrize("convention", ["voxels", "elements"])
@pytest.mark.parametrize(("axis", "step_mm"), [(0, 0.7), (1, 2.0), (2, 5.0)])
def test_box_shifted_along_an_axis_is_as_far_off_as_the_shift_in_mm(axis, step_mm, convention):
    moved = [5, 5, 5]
    moved[axis] += 2
    distances = surface_distances(box(), box(start=moved), (0.7, 2.0, 5.0), convention)
    assert hausdorff(distances) == pytest.approx(2 * step_mm)


def test_two_single_voxels_are_as_far_apart_as_their_centres():
    distances = surface_distances(box(lengths=(1, 1, 1)), box(start=(8, 9, 5), lengths=(1, 1, 1)), (1, 2, 3))
    assert hausdorff(distances) == average_distance(distances) == pytest.approx(np.hypot(3, 8))


def test_surfaces_within_the_tolerance_agree_fully_and_beyond_it_by_hand_count():
    reference, prediction = box(), box(start=(7, 5, 5))
    distances = surface_distances(reference, prediction, (1, 1, 1), "voxels")
    assert surface_dice(distances, 2) == 1
    # Border voxels of a 6³ box: 152. Shifted by 2: those on both borders are 4 rings of 20 voxels.
    both = 4 * 20
    assert surface_dice(distances, 0) == pytest.approx(both / 152)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.5, 4.0)])
def test_area_of_a_boxs_surface_elements_is_its_area_but_for_the_bevelled_edges(spacing_mm):
    lengths = (12, 10, 8)
    areas = surface_distances(box(lengths=lengths), box(lengths=lengths), spacing_mm, "elements").reference_areas
    a, b, c = (n * s for n, s in zip(lengths, spacing_mm, strict=True))
    assert 0.85 * 2 * (a * b + b * c + a * c) < areas.sum() < 2 * (a * b + b * c + a * c)


def test_elements_of_a_plane_have_the_area_of_a_voxels_face():
    assert element_areas((2.0, 3.0, 5.0))[0b00001111] == 15
    assert element_areas((2.0, 3.0, 5.0))[0b01010101] == 6
    assert element_areas((2.0, 3.0))[0b0011] == 3


def test_complement_of_a_cell_has_the_same_area():
    areas = element_areas((1.0, 2.0, 3.0))
    np.testing.assert_allclose(areas, areas[::-1])


def test_sphere_inside_a_sphere_is_off_by_the_difference_of_the_radii_to_half_a_voxel():
    grid = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 3, indexing="ij"))
    radius = np.linalg.norm(grid * np.array([1, 0.5, 0.5]).reshape(3, 1, 1, 1), axis=0)
    distances = surface_distances(radius <= 11, radius <= 8, (1, 0.5, 0.5), "elements")
    assert average_distance(distances) == pytest.approx(3, abs=0.5)
    assert hausdorff(distances) == pytest.approx(3, abs=1)


def test_distance_of_exactly_the_tolerance_is_within_it_whatever_the_spacing():
    for spacing in (0.1, 0.7, 0.8, 1.1):
        for start in range(2, 9):
            moved = surface_distances(box(start=(start, 5, 5)), box(start=(start + 2, 5, 5)), (spacing,) * 3)
            assert surface_dice(moved, 2 * spacing) == 1


@pytest.mark.parametrize("convention", ["voxels", "elements"])
def test_empty_masks_have_no_distance_and_no_surface_dice(convention):
    nothing = np.zeros((20, 20, 20), dtype=bool)
    one = surface_distances(box(), nothing, (1, 1, 1), convention)
    assert np.isnan(hausdorff(one))
    assert np.isnan(average_distance(one))
    assert surface_dice(one, 1) == 0
    assert np.isnan(surface_dice(surface_distances(nothing, nothing, (1, 1, 1), convention), 1))


def test_edge_of_the_image_is_a_border():
    filled = np.ones((4, 5, 6), dtype=bool)
    assert surface_distances(filled, filled, (1, 1, 1)).from_reference.size == 120 - 2 * 3 * 4
