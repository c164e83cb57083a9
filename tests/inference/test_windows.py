from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from medseg.config import Windows
from medseg.inference.windows import cut, plan_sweep, window_weights

SIZES = st.tuples(*[st.integers(2, 12)] * 3)
SHAPES = st.tuples(*[st.integers(1, 40)] * 3)
OVERLAPS = st.floats(0, 0.9)


@given(SHAPES, SIZES, OVERLAPS)
def test_windows_cover_every_voxel(shape, size, overlap):
    sweep = plan_sweep(shape, Windows(size=size, overlap=overlap))
    for n, window, starts in zip(shape, size, sweep.starts, strict=True):
        covered = np.zeros(n, dtype=bool)
        for start in starts:
            covered[max(start, 0) : start + window] = True
        assert covered.all()


@given(SHAPES, SIZES, OVERLAPS)
def test_windows_lie_where_monai_lays_them(shape, size, overlap):
    sweep = plan_sweep(shape, Windows(size=size, overlap=overlap))
    padded = tuple(max(n, window) for n, window in zip(shape, size, strict=True))
    before = [max(window - n, 0) // 2 for n, window in zip(shape, size, strict=True)]
    interval = _get_scan_interval(padded, size, 3, (overlap,) * 3)
    expected = {
        tuple(s.start - b for s, b in zip(slices, before, strict=True))
        for slices in dense_patch_slices(padded, size, interval)
    }
    visited = [start for stop in sweep.stops for start in sweep.windows_at(stop)]
    assert set(visited) == expected
    assert len(visited) == len(sweep)


@given(SHAPES, SIZES)
def test_sweep_keeps_the_fewest_voxels(shape, size):
    sweep = plan_sweep(shape, Windows(size=size))
    padded = [max(n, window) for n, window in zip(shape, size, strict=True)]
    kept = [size[axis] * np.prod(np.delete(padded, axis)) for axis in range(3)]
    assert kept[sweep.axis] == min(kept)


def test_window_beyond_the_border_is_filled():
    array = np.ones((2, 3, 3, 3), dtype=np.float32)
    window = cut(array, (-1, 1, 0), (4, 4, 3), padding_value=-5.0)
    assert window.shape == (2, 4, 4, 3)
    assert (window[:, 1:, :2] == 1).all()
    assert (window[:, 0] == -5).all()
    assert (window[:, :, 2:] == -5).all()


def test_context_brings_neighbour_slices_as_channels_and_repeats_the_last_slice():
    array = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5) * np.ones((1, 4, 4, 1), dtype=np.float32)
    middle = cut(array, (0, 0, 2), (4, 4, 1), 0.0, context=(2, 1))
    assert middle[:, 0, 0, 0].tolist() == [1, 2, 3]
    first = cut(array, (0, 0, 0), (4, 4, 1), 0.0, context=(2, 2))
    assert first[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 2]


def test_gaussian_weights_fall_from_the_centre_and_never_reach_zero():
    weights = window_weights(Windows(size=(9, 9, 9)))
    assert weights.argmax() == torch.tensor(9**3 // 2)
    assert weights.min() >= 1e-3 * (1 - 1e-6)
    assert (window_weights(Windows(size=(4, 4, 1), weights="constant")) == 1).all()


@pytest.mark.parametrize("size", [(96, 96, 96), (16, 24, 7), (64, 48, 1)])
@pytest.mark.parametrize("weights", ["gaussian", "constant"])
def test_weights_are_monai_s(size, weights):
    theirs = compute_importance_map(size, mode=weights, sigma_scale=0.125)
    torch.testing.assert_close(window_weights(Windows(size=size, weights=weights)), theirs, rtol=1e-6, atol=0)


def test_windows_spread_evenly_are_fewer_and_cover_all_with_three_quarters_of_the_overlap_s_step():
    windows = Windows(size=(96, 96, 96), tiling="even")
    sweep = plan_sweep((267, 199, 50), windows)
    assert sweep.starts == ((0, 57, 114, 171), (0, 52, 103), (-23,))
    assert len(sweep) < len(plan_sweep((267, 199, 50), Windows(size=(96, 96, 96))))
    dense = plan_sweep((1000, 96, 97), windows).starts
    assert max(b - a for a, b in pairwise(dense[0])) <= 1.25 * 48
    assert dense[1:] == ((0,), (0, 1))
