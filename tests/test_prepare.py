import numpy as np
import pytest
from monai import transforms
from monai.bundle import ConfigParser

from medseg.config import NormaliseIntensity, Preparation, ScaleIntensityPercentiles, ScaleIntensityRange
from medseg.errors import GeometryError, InputError
from medseg.geometry import Geometry
from medseg.model import monai_transforms
from medseg.networks.checkpoint_layouts import CAFFE, TORCHVISION
from medseg.prepare import prepare, prepare_labels, steps
from medseg.study import NO_SPACING, Finding
from medseg.volume import Segmentation, Volume
from tests.phantoms import affine_of, axis_arrangements, ball, rearranged, rotation, world

GRID = Geometry((24, 30, 20), affine_of((1.5, 1.0, 2.0), (-20, 10, -5), rotation(12, (1, 1, 0))))


def ramp(geometry):
    """Intensity grows linearly in world space, so that linear interpolation is exact."""
    return Volume((world(geometry) @ (1.0, 2.0, 3.0))[None].astype(np.float32), geometry)


UNTOUCHED = ScaleIntensityRange(low=0, high=1e9)  # so large a window that only the scale changes


def test_every_axis_arrangement_of_a_scan_is_prepared_to_the_same_volume():
    scan = ramp(GRID)
    preparation = Preparation(orientation="RAS", spacing_mm=(1.0, 1.0, 1.0))
    expected = prepare(scan, preparation)
    for order, signs in axis_arrangements():
        prepared = prepare(rearranged(scan, order, signs), preparation)
        assert prepared.geometry.matches(expected.geometry)
        np.testing.assert_allclose(prepared.array, expected.array, atol=1e-4)
        assert prepared.geometry.orientation == "RAS"


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
def test_voxels_stay_where_they_are_in_the_patient(orientation):
    preparation = Preparation(orientation=orientation, spacing_mm=(0.8, 1.3, 1.1), intensity=UNTOUCHED)
    volume = Volume(ramp(GRID).array + 1000, GRID)
    prepared = prepare(volume, preparation)
    assert prepared.geometry.orientation == orientation
    np.testing.assert_allclose(prepared.geometry.spacing_mm, (0.8, 1.3, 1.1), rtol=1e-5)
    inner = tuple(slice(2, -2) for _ in range(3))  # at the border the edge is repeated
    expected = (world(prepared.geometry) @ (1.0, 2.0, 3.0) + 1000)[inner]
    np.testing.assert_allclose(prepared.array[0][inner] * 1e9, expected, rtol=1e-4)


def test_spacing_of_none_keeps_the_scan_s_own_along_that_axis():
    prepared = prepare(ramp(GRID), Preparation(spacing_mm=(1.0, None, None)))
    np.testing.assert_allclose(prepared.geometry.spacing_mm, (1.0, 1.0, 2.0), rtol=1e-6)


def test_normalising_gives_zero_mean_and_unit_deviation():
    prepared = prepare(ramp(GRID), Preparation(intensity=NormaliseIntensity()))
    assert prepared.array.dtype == np.float32
    assert prepared.array.mean() == pytest.approx(0, abs=1e-4)
    assert prepared.array.std() == pytest.approx(1, abs=1e-4)


def test_window_is_scaled_and_clipped():
    hu = np.array([-1000, -150, 50, 250, 3000], dtype=np.int16).reshape(1, 5, 1, 1)
    volume = Volume(hu, Geometry((5, 1, 1), np.eye(4)))
    prepared = prepare(volume, Preparation(intensity=ScaleIntensityRange(low=-150, high=250)))
    np.testing.assert_allclose(prepared.array.ravel(), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_percentiles_become_the_window():
    values = np.arange(101, dtype=np.float32).reshape(1, 101, 1, 1)
    volume = Volume(values, Geometry((101, 1, 1), np.eye(4)))
    prepared = prepare(volume, Preparation(intensity=ScaleIntensityPercentiles(low=10, high=90)))
    assert prepared.array.min() == 0
    assert prepared.array.max() == 1
    assert prepared.array[0, 50, 0, 0] == pytest.approx(0.5, abs=1e-5)


def test_crop_keeps_the_foreground_in_its_place():
    inside = ball(GRID, tuple(GRID.to_world((12, 15, 10))), 8.0)
    volume = Volume(np.where(inside, 100, -1000).astype(np.int16)[None], GRID)
    prepared = prepare(volume, Preparation(foreground_above=-500, intensity=UNTOUCHED))
    assert prepared.array[0].size < inside.size
    assert (prepared.array > 0).sum() == inside.sum()
    found = world(prepared.geometry)[prepared.array[0] > 0].mean(0)
    np.testing.assert_allclose(found, world(GRID)[inside].mean(0), atol=1e-3)


def test_scan_without_foreground_is_refused():
    volume = Volume(np.full((1, *GRID.shape), -1000, dtype=np.int16), GRID)
    with pytest.raises(InputError, match="No voxel is above -500"):
        prepare(volume, Preparation(foreground_above=-500))


def test_labels_follow_their_scan():
    labels = ball(GRID, tuple(GRID.to_world((12, 15, 10))), 9.0).astype(np.uint8)
    prepared = prepare(ramp(GRID), Preparation(spacing_mm=(1.0, 1.0, 1.0)))
    moved = prepare_labels(Segmentation(labels, GRID), prepared.geometry)
    assert moved.array.dtype == np.uint8
    volume_mm3 = moved.array.sum() * prepared.geometry.voxel_volume_mm3
    assert volume_mm3 == pytest.approx(labels.sum() * GRID.voxel_volume_mm3, rel=0.05)
    found = world(prepared.geometry)[moved.array > 0].mean(0)
    np.testing.assert_allclose(found, GRID.to_world((12, 15, 10)), atol=0.3)


def test_labels_that_lie_elsewhere_are_refused():
    far = Geometry((4, 4, 4), affine_of((1, 1, 1), (1000, 0, 0)))
    with pytest.raises(GeometryError, match="do not overlap"):
        prepare_labels(Segmentation(np.zeros((4, 4, 4), np.uint8), far), GRID)


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(orientation="LPS", spacing_mm=(1.0, None, 1.2)),
        Preparation(foreground_above=0.0, intensity=ScaleIntensityRange(low=-100, high=300)),
        Preparation(intensity=ScaleIntensityPercentiles()),
        Preparation(intensity=ScaleIntensityRange(low=-100, high=300), convention=CAFFE),
    ],
)
def test_transforms_of_the_bundle_give_what_prepare_gives(preparation):
    scan = ramp(GRID)
    parser = ConfigParser({"chain": {"_target_": "Compose", "transforms": monai_transforms(preparation)}})
    chain = parser.get_parsed_content("chain")
    image = transforms.EnsureType(track_meta=True)(scan.array.copy())
    image.affine = scan.geometry.affine.copy()
    theirs = chain({"image": image})["image"]
    ours = prepare(scan, preparation)
    np.testing.assert_allclose(theirs.numpy(), ours.array, atol=1e-5)
    np.testing.assert_allclose(theirs.affine.numpy(), ours.geometry.affine, atol=1e-5)


def test_colours_come_in_the_order_and_scale_that_a_checkpoint_expects():
    colours = np.stack([np.full((4, 4, 4), value, np.uint8) for value in (255, 51, 0)])
    volume = Volume(colours, Geometry((4, 4, 4), affine_of((1, 1, 1))))
    window = ScaleIntensityRange(low=0, high=255)
    blue, green, red = prepare(volume, Preparation(intensity=window, convention=CAFFE)).array[:, 0, 0, 0]
    np.testing.assert_allclose([blue, green, red], [0 - 104.008, 51 - 116.669, 255 - 122.675], rtol=1e-5)
    red, green, blue = prepare(volume, Preparation(intensity=window, convention=TORCHVISION)).array[:, 0, 0, 0]
    np.testing.assert_allclose([red, green, blue], [0.515 / 0.229, -0.256 / 0.224, -0.406 / 0.225], rtol=1e-5)


def test_one_channel_takes_the_mean_over_the_colours():
    volume = Volume(np.full((1, 4, 4, 4), 51, np.uint8), Geometry((4, 4, 4), affine_of((1, 1, 1))))
    prepared = prepare(volume, Preparation(intensity=ScaleIntensityRange(low=0, high=255), convention=CAFFE))
    np.testing.assert_allclose(prepared.array, 51 - (104.008 + 116.669 + 122.675) / 3, rtol=1e-5)


def test_convention_of_grey_values_refuses_normalised_intensities():
    with pytest.raises(ValueError, match="choose window or percentiles"):
        Preparation(convention=CAFFE)


def test_colours_of_the_bundle_are_those_of_prepare():
    scan = Volume(np.random.default_rng(0).integers(0, 255, (3, 5, 4, 3)), Geometry((5, 4, 3), affine_of((1, 1, 1))))
    preparation = Preparation(intensity=ScaleIntensityRange(low=0, high=255), convention=CAFFE)
    transforms_of_bundle = monai_transforms(preparation, channels=3)
    chain = ConfigParser({"chain": {"_target_": "Compose", "transforms": transforms_of_bundle}}).get_parsed_content(
        "chain"
    )
    image = transforms.EnsureType(track_meta=True)(scan.array.astype(np.float32))
    image.affine = scan.geometry.affine.copy()
    np.testing.assert_allclose(chain({"image": image})["image"].numpy(), prepare(scan, preparation).array, atol=1e-3)


def test_every_step_is_a_transform_of_monai():
    preparation = Preparation(foreground_above=0, spacing_mm=(1, 1, 1))
    assert [step.name for step in steps(preparation)] == [
        "CropForeground",
        "Orientation",
        "Spacing",
        "NormalizeIntensity",
    ]


@pytest.mark.parametrize("across", [0, 1, 2])
def test_axis_across_the_slices_becomes_the_last_however_oblique_they_lie(across):
    # A short-axis heart: the axis across the slices is nearest to left-right, so codes would part the slices.
    spacing, shape = [1.4, 1.4, 1.4], [20, 22, 24]
    spacing[across], shape[across] = 8.0, 6
    grid = Geometry(tuple(shape), affine_of(tuple(spacing), (0, 0, 0), rotation(50, (1, 1, 1))))
    prepared = prepare(ramp(grid), Preparation(orientation="slices", spacing_mm=(2.8, 2.8, None)))
    np.testing.assert_allclose(prepared.geometry.spacing_mm, (2.8, 2.8, 8.0), rtol=1e-5)
    assert prepared.geometry.shape[2] == 6
    np.testing.assert_allclose(prepared.geometry.to_world((0, 0, 0)), grid.to_world((0, 0, 0)), atol=1.5)


def test_picture_without_pixel_size_is_not_resampled_and_a_slice_with_one_is():
    grid = Geometry((32, 30, 1), affine_of((1.0, 1.0, 1.0)))
    scan = ramp(grid)
    preparation = Preparation(orientation="slices", spacing_mm=(2.0, 2.0, None))
    assert prepare(scan, preparation).geometry.shape == (16, 16, 1)
    picture = Volume(scan.array, grid, None, (Finding(NO_SPACING, "A picture."),))
    assert prepare(picture, preparation).geometry.shape == grid.shape
