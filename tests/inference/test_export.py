from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.geometry import Geometry
from medseg.inference import export, highest, resample
from medseg.inference.head import Head
from medseg.volume import Slab
from tests.phantoms import affine_of, axis_arrangements

SOURCE = Geometry((12, 15, 18), affine_of((2.0, 1.5, 1.0), (-10, 5, 30)))
FINE = Geometry((40, 30, 37), affine_of((0.6, 0.75, 0.5), (-10.3, 4.8, 30.4)))
COARSE = Geometry((8, 15, 8), affine_of((3.0, 1.0, 2.5), (-10.3, 4.8, 30.4)))
BEYOND = Geometry((40, 40, 40), affine_of((1.0, 1.0, 1.0), (-20, -5, 25)))


def slabs_of(values, axis, head=None, thickness=4):
    for start in range(0, values.shape[1 + axis], thickness):
        part = values.narrow(1 + axis, start, min(thickness, values.shape[1 + axis] - start))
        yield Slab(part, axis, start, head=head)


def anatomy(channels, seed=0):
    """Scores that vary slowly, so that most cells have one class and some have several."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.standard_normal((1, channels, 4, 4, 4)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, size=SOURCE.shape, mode="trilinear")[0]


def assembled(slabs, shape):
    found = np.full(shape, -1)
    for slab in slabs:
        planes = [slice(None)] * 3
        planes[slab.axis] = slice(slab.start, slab.stop)
        assert (found[tuple(planes)] == -1).all()
        found[tuple(planes)] = slab.classes
    return found


def whole(values, head, axis, to, **settings):
    """Every score on the target grid, then the highest."""
    finished = (slab.finished for slab in slabs_of(values, axis, head))
    return assembled(highest(resample(finished, SOURCE, to=to, **settings)), to.shape)


def some_head(channels, classes):
    torch.manual_seed(0)
    return Head(torch.randn(classes, channels), 0.1 * torch.randn(classes))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("to", [FINE, COARSE, BEYOND], ids=["fine", "coarse", "beyond"])
@pytest.mark.parametrize("head", [None, some_head(5, 9)], ids=["scores", "features"])
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_compiled_labels_are_those_of_all_scores_interpolated(axis, to, head, interpolation):
    values = anatomy(5)
    found = export(slabs_of(values, axis, head), SOURCE, to=to, interpolation=interpolation, compiled=True)
    expected = whole(values, head, axis, to, interpolation=interpolation)
    np.testing.assert_array_equal(assembled(found, to.shape), expected)
    assert len(np.unique(expected)) > 2


def test_compiled_labels_come_back_in_all_48_axis_arrangements():
    values = anatomy(5)
    for order, signs in axis_arrangements():
        affine = FINE.affine[:, [*order, 3]].copy()
        shape = tuple(FINE.shape[axis] for axis in order)
        for a, sign in enumerate(signs):
            if sign < 0:
                affine[:3, 3] += affine[:3, a] * (shape[a] - 1)
                affine[:3, a] *= -1
        to = Geometry(shape, affine)
        found = export(slabs_of(values, 2), SOURCE, to=to, compiled=True)
        np.testing.assert_array_equal(assembled(found, shape), whole(values, None, 2, to))


def test_a_class_that_is_highest_at_no_voxel_is_found_between_voxels():
    # Between -9 | 9 and 9 | -9 the third class, everywhere 1, is the highest half way.
    line = torch.tensor([[9.0, -9.0], [-9.0, 9.0], [1.0, 1.0]])
    source = Geometry((2, 2, 2), np.eye(4))
    values = line[:, :, None, None].expand(3, 2, 2, 2)
    to = Geometry((5, 2, 2), affine_of((0.25, 1.0, 1.0)))
    found = export(slabs_of(values, 2), source, to=to, compiled=True)
    assert assembled(found, to.shape)[:, 0, 0].tolist() == [0, 0, 2, 1, 1]


def test_slabs_with_a_head_resample_to_what_finished_slabs_do():
    values, head = anatomy(5), some_head(5, 9)
    late = resample(slabs_of(values, 1, head), SOURCE, to=BEYOND)
    early = resample((slab.finished for slab in slabs_of(values, 1, head)), SOURCE, to=BEYOND)
    for one, other in zip(late, early, strict=True):
        assert replace(one, scores=None) == replace(one, scores=None) or one.start == other.start
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-4)
