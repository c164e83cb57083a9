import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from medseg.geometry import Geometry
from medseg.inference import resample
from medseg.volume import Slab
from tests.phantoms import affine_of, axis_arrangements, rotation

SOURCE = Geometry((12, 15, 18), affine_of((2.0, 1.5, 1.0), (-10, 5, 30)))


def scores(geometry=SOURCE, classes=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((classes, *geometry.shape)).astype(np.float32))


def slabs_of(values, axis, thickness=4, are_probabilities=False):
    for start in range(0, values.shape[1 + axis], thickness):
        stop = min(start + thickness, values.shape[1 + axis])
        yield Slab(values.narrow(1 + axis, start, stop - start), axis, start, are_probabilities)


def assembled(slabs, shape, classes=3):
    values = np.full((classes, *shape), np.nan, dtype=np.float32)
    for slab in slabs:
        planes = [slice(None)] * 3
        planes[slab.axis] = slice(slab.start, slab.stop)
        assert np.isnan(values[:, *planes]).all()
        values[:, *planes] = slab.scores.numpy()
    return values


def reference(values, source, to, order=1):
    """The whole volume at once, by SciPy; positions are clamped to the source's voxel centres."""
    mapping = to.index_map(source)
    return np.stack(
        [
            affine_transform(v, mapping[:3, :3], mapping[:3, 3], to.shape, order=order, mode="nearest")
            for v in values.numpy()
        ]
    )


def inside(source, to):
    """Voxels of `to` whose centre lies in a voxel of `source`."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in to.shape], indexing="ij"), axis=-1)
    mapping = to.index_map(source)
    positions = indices @ mapping[:3, :3].T + mapping[:3, 3]
    return ((positions >= -0.5) & (positions <= np.array(source.shape) - 0.5)).all(-1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (3.0, 1.0, 2.5)])
def test_other_spacing_equals_interpolating_the_whole_volume(axis, spacing):
    shape = tuple(int(e / s) for e, s in zip(SOURCE.extent_mm, spacing, strict=True))
    to = Geometry(shape, affine_of(spacing, (-10.3, 4.8, 30.4)))
    values = scores()
    ours = assembled(resample(slabs_of(values, axis), SOURCE, to=to), to.shape)
    keep = inside(SOURCE, to) & ~np.isnan(ours[0])
    assert keep.mean() > 0.9
    np.testing.assert_allclose(ours[:, keep], reference(values, SOURCE, to)[:, keep], atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_48_axis_arrangements_come_back_exactly(axis):
    values = scores()
    for order, signs in axis_arrangements():
        affine = SOURCE.affine[:, [*order, 3]].copy()
        expected = values.permute(0, *(1 + a for a in order))
        for a, sign in enumerate(signs):
            if sign < 0:
                expected = expected.flip(1 + a)
                affine[:3, 3] += affine[:3, a] * (expected.shape[1 + a] - 1)
                affine[:3, a] *= -1
        to = Geometry(tuple(expected.shape[1:]), affine)
        ours = assembled(resample(slabs_of(values, axis), SOURCE, to=to), to.shape)
        np.testing.assert_array_equal(ours, expected.numpy())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotated_and_sheared_grids_equal_interpolating_the_whole_volume(axis):
    affine = SOURCE.affine.copy()
    affine[:3, :3] = rotation(25, (1, 2, 3)) @ affine[:3, :3]
    affine[1, 2] += 0.3
    to = Geometry((14, 13, 16), affine)
    values = scores()
    ours = assembled(resample(slabs_of(values, axis), SOURCE, to=to), to.shape)
    keep = inside(SOURCE, to) & ~np.isnan(ours[0])
    assert keep.mean() > 0.3
    np.testing.assert_allclose(ours[:, keep], reference(values, SOURCE, to)[:, keep], atol=1e-4)


@pytest.mark.parametrize("are_probabilities", [False, True])
def test_voxels_outside_the_source_are_background(are_probabilities):
    to = Geometry((40, 40, 40), affine_of((1.0, 1.0, 1.0), (-20, -5, 25)))
    values = scores().softmax(0) if are_probabilities else scores()
    ours = assembled(resample(slabs_of(values, 2, are_probabilities=are_probabilities), SOURCE, to=to), to.shape)
    outside = ~inside(SOURCE, to)
    assert outside.any()
    seen = outside & ~np.isnan(ours[0])
    assert seen.any()
    assert (ours[:, seen].argmax(0) == 0).all()
    np.testing.assert_allclose(
        torch.from_numpy(ours[:, seen]).softmax(0)[0] if not are_probabilities else ours[0, seen], 1
    )
    # Planes that lie wholly outside do not come at all.
    assert np.isnan(ours[0, :, :, 0]).all()


def test_nearest_interpolation_invents_no_scores():
    to = Geometry((20, 18, 15), affine_of((1.1, 1.2, 1.15), (-10, 5, 30)))
    values = scores().round()
    ours = assembled(resample(slabs_of(values, 1), SOURCE, to=to, interpolation="nearest"), to.shape)
    seen = ours[~np.isnan(ours)]
    assert set(np.unique(seen)) <= set(np.unique(values.numpy())) | {-1e4, 0.0}


def test_same_grid_passes_through():
    values = scores()
    passed = list(resample(slabs_of(values, 0), SOURCE, to=SOURCE))
    assert [slab.scores.data_ptr() for slab in passed] == [slab.scores.data_ptr() for slab in slabs_of(values, 0)]


def test_planes_leave_while_slabs_still_arrive():
    to = Geometry((12, 15, 36), affine_of((2.0, 1.5, 0.5), (-10, 5, 30)))
    taken = []

    def counted():
        for slab in slabs_of(scores(), 2):
            taken.append(slab.start)
            yield slab

    next(resample(counted(), SOURCE, to=to))
    assert taken == [0]
