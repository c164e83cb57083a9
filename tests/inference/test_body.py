import numpy as np

from medseg.geometry import Geometry
from medseg.inference import around_body
from medseg.volume import Volume


def scan(box=None, level=0.5):
    array = np.random.default_rng(0).normal(0, 0.02, (1, 64, 72, 80)).astype(np.float32).clip(0)
    if box:
        array[:, *box] += level
    return Volume(array, Geometry(array.shape[1:], np.diag([2.0, 1.0, 1.5, 1.0])))


def test_air_around_the_body_is_left_out_but_for_a_margin():
    volume = scan((slice(20, 40), slice(8, 60), slice(32, 36)))
    cropped = around_body(volume)
    assert cropped.geometry.shape == (36, 68, 20)
    np.testing.assert_allclose(cropped.geometry.affine[:3, 3], (2 * 12, 0, 1.5 * 24))
    assert np.shares_memory(cropped.array, volume.array)
    start = np.rint(volume.geometry.to_voxel(cropped.geometry.to_world((0, 0, 0)))).astype(int)
    assert cropped.array[0, 0, 0, 0] == volume.array[0, *start]


def test_a_scan_of_one_value_is_kept_whole():
    array = np.zeros((1, 10, 10, 10), np.float32)
    volume = Volume(array, Geometry((10, 10, 10), np.eye(4)))
    assert around_body(volume) is volume
