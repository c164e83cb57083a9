"""When a scan is told to be unlike those that a model was trained on."""

import numpy as np
import pytest

from medseg.geometry import Geometry
from medseg.likeness import Outline, Seen
from medseg.study import NO_SPACING, Finding
from medseg.volume import Volume
from tests.phantoms import affine_of


def scan(shape=(40, 50, 30), spacing=(1.0, 1.0, 2.0), low=-1000.0, high=800.0):
    random = np.random.default_rng(0)
    return Volume(random.uniform(low, high, (1, *shape)).astype(np.float32), Geometry(shape, affine_of(spacing)))


SCANS = [scan(), scan((44, 52, 32)), scan(high=1200)]
SEEN = Seen.over([Outline.of(one) for one in SCANS], with_intensities=True)


@pytest.mark.parametrize("volume", SCANS)
def test_scans_trained_on_raise_no_doubt(volume):
    assert SEEN.doubts(volume) == ()


def test_order_of_the_axes_makes_no_difference():
    assert SEEN.doubts(scan((30, 40, 50), (2.0, 1.0, 1.0))) == ()


@pytest.mark.parametrize(
    ("volume", "doubt"),
    [
        (scan((400, 50, 30)), "a field of view of 50 × 60 × 400 mm, those trained on 40-44 × 50-52 × 60-64 mm"),
        (scan((8, 10, 6), (5.0, 5.0, 10.0)), "has voxels of 5 × 5 × 10 mm"),
        (scan(low=0.0, high=9000.0), "has intensities from"),
    ],
)
def test_unusual_scan_is_told_with_both_figures(volume, doubt):
    doubts = SEEN.doubts(volume)
    assert len(doubts) == 1
    assert doubt in doubts[0]


def test_empty_scan_is_told_even_where_intensities_have_no_unit():
    mr = Seen.over([Outline.of(one) for one in SCANS], with_intensities=False)
    assert mr.low is None
    assert mr.doubts(scan(low=0.0, high=9000.0)) == ()
    empty = Volume(np.zeros((1, 40, 50, 30)), scan().geometry)
    assert mr.doubts(empty) == ("has the same intensity nearly everywhere",)


def test_picture_without_pixel_size_is_judged_by_its_intensities_alone():
    volume = scan((4000, 5000, 1)).array[:, ::100, ::100]
    picture = Volume(volume, Geometry(volume.shape[1:], np.eye(4)), findings=(Finding(NO_SPACING, "A picture."),))
    assert SEEN.doubts(picture) == ()
    assert Seen.over([Outline.of(picture)], with_intensities=True).extents_mm is None


def test_ranges_survive_the_way_through_json():
    assert Seen.model_validate_json(SEEN.model_dump_json()) == SEEN
