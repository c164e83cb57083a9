import numpy as np
import pytest

from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.report import preview
from medseg.volume import Segmentation, Volume
from tests.phantoms import affine_of, axis_arrangements, rearranged, rearranged_labels, rotation

RED = LabelSet(labels=(Label(index=2, name="block", colour=(255, 60, 60)),))


def scan(shape=(40, 30, 20), spacing_mm=(1.0, 1.0, 3.0), turn=None, filled=True):
    rng = np.random.default_rng(0)
    array = rng.normal(100, 10, shape).astype(np.float32)
    numbers = np.zeros(shape, dtype=np.uint8)
    block = tuple(slice(n // 4, max(n // 4 + 1, n // 2)) for n in shape)
    array[block] = 200
    if filled:
        numbers[block] = 2
    geometry = Geometry(shape, affine_of(spacing_mm, (3, 4, 5), turn))
    return Volume(array[None], geometry), Segmentation(numbers, geometry, RED)


def coloured(image) -> np.ndarray:
    """(N, 2) rows and columns of the contours, without the legend."""
    pixels = np.asarray(image)[:430]
    return np.argwhere((pixels == (255, 60, 60)).all(axis=-1))


def test_preview_has_three_panels_with_contours_in_the_labels_colour():
    image = preview(*scan(), RED)
    assert (image.mode, image.width) == ("RGB", 3 * 436)
    assert {column // 436 for _, column in coloured(image)} == {0, 1, 2}


@pytest.mark.parametrize(("order", "signs"), axis_arrangements()[::5])
def test_preview_is_the_same_picture_in_any_order_of_axes(order, signs):
    volume, segmentation = scan()
    other = preview(rearranged(volume, order, signs), rearranged_labels(segmentation, order, signs), RED)
    np.testing.assert_array_equal(np.asarray(other), np.asarray(preview(volume, segmentation, RED)))


def test_contour_of_a_block_is_as_wide_and_high_as_the_block_in_mm():
    rows, columns = coloured(preview(*scan(), RED)).T
    axial = columns < 436
    # The axial slice is 40 × 30 mm on 384 pixels along the longer side; the block is 10 × 8 mm of it.
    assert np.ptp(columns[axial]) + 1 == pytest.approx(10 * 384 / 40, abs=2)
    assert np.ptp(rows[axial]) + 1 == pytest.approx(8 * 384 / 40, abs=2)
    coronal = (columns >= 436) & (columns < 872)
    # Coronal: 40 × 60 mm; 5 slices of 3 mm.
    assert np.ptp(rows[coronal]) + 1 == pytest.approx(15 * 384 / 60, abs=2)


def test_patients_right_is_on_the_left_and_front_is_up():
    rows, columns = coloured(preview(*scan(), RED)).T
    axial = columns < 436
    assert columns[axial].mean() > 218  # RAS+: small x is the patient's left, drawn on the right
    assert rows[axial].mean() > 218  # small y is posterior, drawn at the bottom


def test_scan_of_one_slice_gives_one_panel():
    image = preview(*scan(shape=(40, 30, 1)), RED)
    assert image.width == 436
    assert len(coloured(image)) > 50


def test_scan_without_labels_is_still_drawn():
    image = preview(*scan(filled=False), RED)
    assert len(coloured(image)) == 0
    assert np.asarray(image).std() > 10


def test_oblique_and_constant_scans_are_drawn():
    volume, segmentation = scan(turn=rotation(30, (1, 1, 0)))
    assert len(coloured(preview(volume, segmentation, RED))) > 50
    flat = Volume(np.zeros_like(volume.array), volume.geometry)
    assert preview(flat, segmentation, RED).width == 3 * 436


def test_legend_counts_what_it_cannot_list():
    labels = LabelSet.from_names({n: f"structure {n}" for n in range(1, 101)})
    numbers = np.zeros((10, 10, 10), dtype=np.uint8)
    numbers.reshape(-1)[:100] = np.arange(1, 101)
    geometry = Geometry(numbers.shape, np.eye(4))
    rng = np.random.default_rng(0)
    image = preview(Volume(rng.random((1, 10, 10, 10)), geometry), Segmentation(numbers, geometry, labels), labels)
    assert image.height < 640


def test_colours_of_a_photograph_are_kept():
    photo = np.zeros((3, 8, 6, 1), dtype=np.uint8)
    photo[0, :4] = 255
    photo[1, 4:] = 250
    geometry = Geometry((8, 6, 1), np.eye(4))
    image = np.asarray(preview(Volume(photo, geometry), Segmentation(np.zeros((8, 6, 1), np.uint8), geometry), RED))
    assert np.ptp(image[200:220].astype(int), axis=-1).max() > 200
