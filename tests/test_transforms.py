"""Each transform against MONAI's own, on every kind of grid that a preparation meets."""

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data.meta_tensor import MetaTensor

from medseg.config import NormaliseIntensity, Preparation, ScaleIntensityPercentiles, ScaleIntensityRange
from medseg.geometry import Geometry
from medseg.networks.checkpoint_layouts import CAFFE
from medseg.prepare import Above, prepare, steps
from medseg.volume import Volume
from tests.phantoms import affine_of, axis_arrangements, rotation

TILTED = affine_of((1.0, 1.0, 1.0))
TILTED[1, 2] = 0.3
GRIDS = {
    "plain": affine_of((1.5, 1.0, 2.0), (-20, 10, -5)),
    "oblique": affine_of((0.7, 0.9, 3.0), (5, 3, 1), rotation(12, (1, 1, 0))),
    "left-handed": affine_of((-1.2, 1.0, 1.5)),
    "thick slices": affine_of((0.4, 0.4, 6.0)),
    "tilted": TILTED,
}
PREPARATIONS = {
    "spacing": Preparation(spacing_mm=(1.0, 1.2, 1.5), intensity=ScaleIntensityRange(low=-1000, high=1000)),
    "one axis": Preparation(orientation="LPS", spacing_mm=(None, 1.1, None)),
    "nonzero": Preparation(intensity=NormaliseIntensity(nonzero=True)),
    "percentiles": Preparation(spacing_mm=(2.0, 2.0, 2.0), intensity=ScaleIntensityPercentiles(low=2, high=97)),
    "crop": Preparation(foreground_above=-200, orientation="PIR", spacing_mm=(1.0, 1.0, 1.0)),
    "convention": Preparation(intensity=ScaleIntensityRange(low=-1000, high=1000), convention=CAFFE),
}


def noise(affine, channels=1, shape=(17, 23, 11)):
    array = np.random.default_rng(0).integers(-1000, 1000, (channels, *shape)).astype(np.int16)
    array[:, :3] = -900
    array[:, :, :, 7] = 0
    return Volume(array, Geometry(shape, affine))


def by_monai(volume, preparation):
    image = MetaTensor(
        torch.from_numpy(volume.array.astype(np.float32)), affine=torch.from_numpy(volume.geometry.affine.copy())
    )
    for step in steps(preparation, len(image)):
        arguments = dict(step.arguments)
        if step.name == "Lambda":
            arguments["func"] = lambda voxels: voxels.flip(0)
        image = getattr(transforms, step.name)(**arguments)(image)
    return image.as_tensor().numpy(), image.affine.numpy()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_prepared_scan_is_what_monai_makes_of_it(grid, name):
    volume = noise(GRIDS[grid].copy(), channels=3 if name == "convention" else 1)
    prepared = prepare(volume, PREPARATIONS[name])
    array, affine = by_monai(volume, PREPARATIONS[name])
    assert prepared.array.shape == array.shape
    np.testing.assert_allclose(prepared.geometry.affine, affine, atol=1e-4)
    np.testing.assert_allclose(prepared.array, array, rtol=1e-4, atol=2e-4 * np.abs(array).max())


def test_all_48_axis_arrangements_are_prepared_as_monai_does():
    preparation = Preparation(spacing_mm=(1.0, 1.2, 1.5), intensity=ScaleIntensityRange(low=-1000, high=1000))
    for order, signs in axis_arrangements():
        affine = GRIDS["oblique"][:, [*order, 3]].copy()
        affine[:3, :3] *= signs
        prepared = prepare(noise(affine), preparation)
        array, theirs = by_monai(noise(affine), preparation)
        np.testing.assert_allclose(prepared.geometry.affine, theirs, atol=1e-4)
        np.testing.assert_allclose(prepared.array, array, atol=1e-4)


@pytest.mark.parametrize("name", PREPARATIONS)
def test_preparing_leaves_the_scan_s_own_voxels_alone(name):
    volume = noise(GRIDS["plain"], channels=3 if name == "convention" else 1)
    floats = Volume(volume.array.astype(np.float32), volume.geometry)
    before = floats.array.copy()
    prepared = prepare(floats, PREPARATIONS[name])
    np.testing.assert_array_equal(floats.array, before)
    assert not np.shares_memory(prepared.array, floats.array)


def test_above_is_strict():
    assert Above(3)(np.array([2, 3, 4])).tolist() == [False, False, True]
