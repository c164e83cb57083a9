import numpy as np

from medseg.geometry import Geometry
from medseg.report.gallery import AGREEMENT, Drawn, Gallery, agreement, draw
from medseg.report.reduced import reduced
from medseg.report.viewer import Layer, ViewerCase
from medseg.volume import Segmentation, Volume


def labelled(*rows: list[int]) -> Segmentation:
    array = np.array(rows, dtype=np.uint8)[..., None]
    return Segmentation(array, Geometry(array.shape, np.diag([1.0, 2.0, 3.0, 1.0])))


def test_agreement_tells_the_four_ways_two_masks_can_meet():
    found = agreement(labelled([0, 1, 1, 0, 2]), labelled([0, 1, 0, 2, 1]))
    assert [AGREEMENT.names.get(int(kind), "") for kind in found.array[0, :, 0]] == [
        "",
        "agree",
        "reference alone",
        "prediction alone",
        "other label",
    ]


def case(name: str, size: int) -> Drawn:
    return Drawn(name, (), ViewerCase(name, (Layer("scan", bytes(size)),), (0.0, 0.0, 0.0)))


def test_gallery_keeps_the_worst_cases_and_those_volumes_that_fit(monkeypatch):
    monkeypatch.setattr("medseg.report.gallery.MOST_CASES", 3)
    monkeypatch.setattr("medseg.report.gallery.MOST_BYTES", 100)
    gallery = Gallery()
    for name, dice, size in (("good", 0.9, 10), ("worst", 0.1, 60), ("bad", 0.2, 60), ("fair", 0.5, 40)):
        gallery.add(case(name, size), dice)
    assert list(gallery.pictures) == ["worst", "bad", "fair"]
    assert [viewer.title for viewer in gallery.viewers] == ["worst", "fair"]


def test_slices_that_are_shown_are_those_that_differ_most():
    array = np.zeros((12, 14, 16), dtype=np.uint8)
    array[3:9, 3:9, 3:9] = 1
    other = array.copy()
    other[:, :, 5] = 0
    geometry = Geometry(array.shape, np.eye(4))
    drawn = draw("case", None, Segmentation(array, geometry), [Segmentation(other, geometry)])
    assert drawn.pictures[0][0] == "axial, slice 6 of 16"
    assert drawn.viewer.focus_mm[2] == 5


def test_reduced_volume_keeps_its_place_in_space_and_its_labels():
    array = np.zeros((60, 50, 40), dtype=np.uint8)
    array[30:36, 20:26, 10:16] = 7
    geometry = Geometry(array.shape, np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]]))
    scan = Volume(np.arange(array.size, dtype=np.int32).reshape(1, *array.shape), geometry)
    small = reduced([Segmentation(array, geometry)], scan, most_voxels=2_000)
    assert small.masks[0].size <= 2_000
    assert set(np.unique(small.masks[0])) == {0, 7}
    for place in np.argwhere(small.masks[0] == 7):
        at = tuple(np.rint(geometry.to_voxel(small.geometry.to_world(place))).astype(int))
        assert array[at] == 7
        assert small.scan[tuple(place)] == scan.array[0][at]


def test_small_volume_is_shown_as_it_is():
    one = labelled([0, 1, 2])
    small = reduced([one], None, most_voxels=100)
    assert (small.note, small.scan) == ("", None)
    np.testing.assert_array_equal(small.masks[0], one.array)
