import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from tests.phantoms import affine_of, rotation

SPACINGS = st.tuples(*[st.floats(0.1, 10)] * 3)
ORIGINS = st.tuples(*[st.floats(-500, 500)] * 3)
AXES = st.tuples(*[st.floats(0.1, 1)] * 3)


@st.composite
def geometries(draw):
    turn = rotation(draw(st.floats(0, 360)), draw(AXES))
    shape = draw(st.tuples(*[st.integers(1, 40)] * 3))
    return Geometry(shape, affine_of(draw(SPACINGS), draw(ORIGINS), turn))


@given(geometries())
def test_voxel_to_world_and_back_is_the_identity(geometry):
    corners = np.array([(0, 0, 0), [n - 1 for n in geometry.shape], (0.5, 2, 7.25)])
    np.testing.assert_allclose(geometry.to_voxel(geometry.to_world(corners)), corners, atol=1e-6)


@given(geometries(), geometries())
def test_index_map_goes_through_world_space(a, b):
    there = a.index_map(b)
    index = np.array([3.0, 1.5, 2.0])
    expected = b.to_voxel(a.to_world(index))
    np.testing.assert_allclose(there[:3, :3] @ index + there[:3, 3], expected, rtol=1e-6, atol=1e-5)


@given(geometries())
def test_rotation_keeps_spacing_and_voxel_volume(geometry):
    assert geometry.voxel_volume_mm3 == pytest.approx(np.prod(geometry.spacing_mm), rel=1e-9)
    assert geometry.is_orthogonal


def test_orientation_names_the_direction_in_which_each_index_grows():
    assert Geometry((2, 2, 2), np.diag([-1, -2, 3, 1])).orientation == "LPS"
    assert Geometry((2, 2, 2), affine_of((1, 1, 1), turn=rotation(20, (1, 0, 0)))).orientation == "RAS"


def test_sheared_grid_is_not_orthogonal_and_its_voxels_are_smaller_than_its_spacings_say():
    affine = np.eye(4)
    affine[1, 2] = 1.0  # slices shift by a voxel each: 45 degrees of tilt
    geometry = Geometry((4, 4, 4), affine)
    assert not geometry.is_orthogonal
    assert geometry.spacing_mm[2] == pytest.approx(2**0.5)
    assert geometry.voxel_volume_mm3 == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_affine_that_is_not_finite_is_refused(broken):
    affine = np.eye(4)
    affine[0, 3] = broken
    with pytest.raises(GeometryError, match="finite"):
        Geometry((2, 2, 2), affine)


def test_zero_spacing_is_refused():
    with pytest.raises(GeometryError, match=r"spacing 1 × 0 × 1 mm and is singular"):
        Geometry((2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0]))


def test_two_parallel_axes_are_refused():
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    with pytest.raises(GeometryError, match="singular"):
        Geometry((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(0, 2, 2), (2, 2), (2, 2, 2, 2)])
def test_shape_that_is_not_three_positive_sizes_is_refused(shape):
    with pytest.raises(GeometryError, match="Shape"):
        Geometry(shape, np.eye(4))


def test_small_voxels_are_as_valid_as_large_ones():
    assert Geometry((2, 2, 2), np.diag([1e-3, 1e-3, 1e-3, 1])).spacing_mm == pytest.approx((1e-3, 1e-3, 1e-3))


def test_grids_match_when_no_corner_moves_by_a_hundredth_of_a_voxel():
    grid = Geometry((100, 100, 100), np.eye(4))
    near, far = np.eye(4), np.eye(4)
    near[0, 0] = 1 + 0.5e-4  # moves the last voxel by 0.005
    far[0, 0] = 1 + 2e-4  # and by 0.02
    assert grid.matches(Geometry((100, 100, 100), near))
    assert not grid.matches(Geometry((100, 100, 100), far))
    assert not grid.matches(Geometry((100, 100, 99), np.eye(4)))


def test_geometry_cannot_be_changed_behind_its_owner_s_back():
    affine = np.eye(4)
    geometry = Geometry((2, 2, 2), affine)
    affine[0, 0] = 7
    assert geometry.spacing_mm == (1, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 7
