"""RTSTRUCT, read: contours become voxels, or the reason is told."""

from copy import deepcopy
from functools import partial

import numpy as np
import pydicom
import pytest

from medseg.errors import GeometryError, InputError
from medseg.formats import candidate, read, read_segmentation, scan
from medseg.formats.rtstruct_read import read_structures
from medseg.formats.rtstruct_write import decimal
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.label_files import (
    LABELS,
    area_mm2,
    contours_in,
    grid,
    phantom,
    refused_when_cut,
    scan_files,
    written,
)

drawn = partial(written, output_type="dicom-rtstruct")


def square(tmp_path, last):
    """One contour around voxels 2 to `last` of a slice: the file, what it holds, and the voxels."""
    array = np.zeros(grid().shape, np.uint8)
    array[2 : last + 1, 2 : last + 1, 3] = 2
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), Segmentation(array, grid(), LABELS))
    return path, pydicom.dcmread(path), array


def test_contours_of_one_structure_that_cross_add_up_with_a_finding(tmp_path):
    path, data, array = square(tmp_path, 7)
    (contour,) = data.ROIContourSequence[0].ContourSequence
    column = grid().affine[:3, 0] * (-1, -1, 1)
    moved = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + 3 * column
    other = deepcopy(contour)
    other.ContourData = [decimal(value) for value in moved.ravel()]
    data.ROIContourSequence[0].ContourSequence.append(other)
    data.save_as(path)
    back = read_segmentation(path, onto=grid())
    array[2:11, 2:8, 3] = 2
    np.testing.assert_array_equal(back.array, array)
    assert [finding.code for finding in back.findings] == ["contours-cross"]


def test_dice_on_a_grid_in_any_order_of_axes_is_one(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    for order in ((2, 0, 1), (1, 2, 0), (0, 2, 1)):
        turned = Geometry([grid().shape[axis] for axis in order], grid().affine[:, [*order, 3]])
        back = read_segmentation(path, onto=turned)
        np.testing.assert_array_equal(back.array, phantom(grid()).array.transpose(order))


def test_without_a_grid_contours_are_refused_with_the_remedy(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    with pytest.raises(InputError, match=r"plan\.dcm: contours have no grid.*--source"):
        read_segmentation(path)


def test_grid_that_is_oblique_to_the_contours_is_refused(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    with pytest.raises(GeometryError, match="not parallel to the planes"):
        read_segmentation(path, onto=Geometry((40, 40, 40), np.eye(4)))


def test_structures_that_share_voxels_are_refused_and_can_be_read_one_by_one(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    liver, lesion = data.ROIContourSequence
    lesion.ContourSequence = liver.ContourSequence
    data.save_as(path)
    with pytest.raises(GeometryError, match="'liver' and 'Läsion' share"):
        read_segmentation(path, onto=grid())
    back = read_segmentation(path, onto=grid(), names=["Läsion"])
    np.testing.assert_array_equal(back.array == 5, phantom(grid()).array == 2)


def test_points_and_open_lines_are_left_out_with_a_finding(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    data.save_as(path)
    assert [finding.code for finding in read_structures(path).findings] == ["open-contours"]


def test_exclusive_or_contours_are_counted_so(tmp_path):
    path, data, array = square(tmp_path, 11)
    (outer,) = data.ROIContourSequence[0].ContourSequence
    outer.ContourGeometricType = "CLOSEDPLANAR_XOR"
    inner = deepcopy(outer)
    points = np.array(outer.ContourData, dtype=float).reshape(-1, 3)
    inner.ContourData = [decimal(v) for v in (points.mean(axis=0) + 0.4 * (points - points.mean(axis=0))).ravel()]
    data.ROIContourSequence[0].ContourSequence.append(inner)
    data.save_as(path)
    array[5:9, 5:9, 3] = 0
    np.testing.assert_array_equal(read_segmentation(path, onto=grid()).array, array)


def test_cut_file_is_refused_in_one_line_or_gives_every_voxel(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    assert len(refused_when_cut(path, every=113)) > 30


def test_rtstruct_beside_its_images_is_no_scan(tmp_path):
    paths = scan_files(tmp_path / "ct")
    drawn(tmp_path / "ct", paths, phantom(grid()))
    study = scan(tmp_path / "ct")
    assert [series.format for series in study.series] == ["dicom"]
    assert [(path.name, "labels" in reason) for path, reason in study.skipped] == [("plan.dcm", True)]
    assert candidate(tmp_path / "ct").format == "dicom"


def test_real_structure_set_is_drawn_onto_its_scan_and_dangling_references_are_reported(shared_data):
    case = shared_data / "fixtures" / "dicom" / "r38_ct_rtstruct" / "data" / "mock"
    geometry, paths = read(case).geometry, candidate(case).paths
    good = read_segmentation(case / "rt.dcm", onto=geometry, source=paths)
    outer, hole = (area_mm2(points) for _, points in contours_in(case / "rt.dcm"))
    assert good.array.sum() * 0.488281**2 == pytest.approx(outer - hole, rel=0.03)
    assert good.findings == ()
    for name in ("invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"):
        back = read_segmentation(case / name, onto=geometry, source=paths)
        assert {"dangling-references", "contours-off-slices"} == {finding.code for finding in back.findings}
