from copy import deepcopy

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats import Algorithm, candidate, read, read_segmentation, scan, write_onto_source
from medseg.formats.contours import combine, fill, trace
from medseg.formats.dicom_source import read_source
from medseg.formats.rtstruct_read import rasterised, read_structures
from medseg.formats.rtstruct_write import decimal
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.dicom_files import PATIENT, STEP
from tests.label_files import (
    LABELS,
    SLICES,
    bare,
    dciodvfy,
    enhanced,
    gapped,
    geometry_of,
    grid,
    noisy,
    phantom,
    scan_files,
    tilted,
    uids,
)

MODEL = Algorithm("abdomen", "2.1.0")


def written(tmp_path, paths, segmentation):
    path = tmp_path / "plan.dcm"
    return path, write_onto_source(segmentation, path, "dicom-rtstruct", paths, MODEL)


def contours_in(path):
    """(ROI number, points (n, 3)) of every contour."""
    data = pydicom.dcmread(path)
    return [
        (int(item.ReferencedROINumber), np.array(contour.ContourData, dtype=float).reshape(-1, 3))
        for item in data.ROIContourSequence
        for contour in item.get("ContourSequence", [])
    ]


def area_mm2(points):
    """Area that a planar polygon encloses."""
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0))) / 2


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=300, deadline=None)
def test_contours_of_any_mask_enclose_its_pixels_and_its_area_exactly(mask):
    rings = trace(mask)
    assert len(rings) == ndimage.label(mask)[1]
    back, crossed = combine(rings, mask.shape)
    np.testing.assert_array_equal(back, mask)
    assert not crossed
    area = sum(abs(float(r[:, 0] @ np.roll(r[:, 1], -1) - r[:, 1] @ np.roll(r[:, 0], -1))) / 2 for r in rings)
    assert area == pytest.approx(mask.sum())


def test_contour_of_a_block_is_its_four_corners_between_the_pixels():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    (ring,) = trace(mask)
    assert sorted(map(tuple, ring)) == [(2.5, 1.5), (2.5, 3.5), (6.5, 1.5), (6.5, 3.5)]


def test_ring_is_one_contour_with_a_keyhole_of_no_width_that_runs_backwards_around_the_hole():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (ring,) = trace(mask)
    assert len(ring) == 4 + 4 + 1 + 2  # corners of both squares; one of them and the channel's end are passed twice
    assert not fill(ring, (5, 5))[2, 2]
    x, y = (ring - (2, 2)).T
    turns = np.arctan2(x * np.roll(y, -1) - y * np.roll(x, -1), x * np.roll(x, -1) + y * np.roll(y, -1)).sum()
    assert turns == pytest.approx(0)  # not in it for readers that count windings either


def test_contours_of_other_programs_within_one_another_are_holes_and_islands():
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=float)
    rings = [square * 4 + 2.5, square * 10 - 0.5, square * 2 + 3.5]  # hole, outer, island, in any order
    mask, crossed = combine([*rings, rings[1].copy(), rings[1][::-1]], (10, 10))  # and copies of the outer one
    expected = np.ones((10, 10), bool)
    expected[3:7, 3:7] = False
    expected[4:6, 4:6] = True
    np.testing.assert_array_equal(mask, expected)
    assert not crossed


def test_contours_of_one_structure_that_cross_add_up_with_a_finding(tmp_path):
    paths = scan_files(tmp_path / "ct")
    array = np.zeros(grid().shape, np.uint8)
    array[2:8, 2:8, 3] = 2
    path, _ = written(tmp_path, paths, Segmentation(array, grid(), LABELS))
    data = pydicom.dcmread(path)
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


@pytest.mark.parametrize("change", [None, noisy, bare, tilted], ids=["plain", "noisy", "bare", "tilted"])
def test_labels_with_holes_and_islands_come_back_voxel_by_voxel(tmp_path, change):
    paths = scan_files(tmp_path / "ct", *([change] if change else []))
    segmentation = phantom(geometry_of(paths))
    path, _ = written(tmp_path, paths, segmentation)
    back = read_segmentation(path, onto=segmentation.geometry, source=paths)
    np.testing.assert_array_equal(back.array, segmentation.array)
    assert back.labels.names == {2: "liver", 5: "Läsion"}
    assert back.labels[2] == LABELS[2]
    assert back.findings == ()
    assert dciodvfy(path) == []


def test_contours_lie_on_their_slices_in_patient_coordinates(tmp_path):
    paths = scan_files(tmp_path / "ct", tilted)
    array = np.zeros(grid().shape, np.uint8)
    array[3, 5, 2] = 2
    path, _ = written(tmp_path, paths, Segmentation(array, geometry_of(paths), LABELS))
    ((_, points),) = contours_in(path)
    centre = geometry_of(paths).to_world((3, 5, 2)) * (-1, -1, 1)
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=1e-4)
    assert area_mm2(points) == pytest.approx(1.5 * 0.5, rel=1e-3)


def test_enclosed_area_times_distance_of_slices_is_the_volume(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    for index in (2, 5):
        volume = sum(area_mm2(points) for number, points in contours_in(path) if number == index) * STEP
        expected = (phantom(grid()).array == index).sum() * grid().voxel_volume_mm3
        assert volume == pytest.approx(expected, rel=1e-3)


def test_contours_refer_to_their_slices_and_the_set_to_all(tmp_path):
    paths = scan_files(tmp_path / "ct")
    path, _ = written(tmp_path, paths, phantom(grid()))
    data = pydicom.dcmread(path)
    (frame,) = data.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == uids(paths)
    position = {}
    for one in map(pydicom.dcmread, paths):
        position[one.SOPInstanceUID] = np.array(one.ImagePositionPatient, dtype=float)
    normal = np.cross((0.8, 0.6, 0), (0, 0, -1))
    for item in data.ROIContourSequence:
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            (image,) = contour.ContourImageSequence
            np.testing.assert_allclose((points - position[image.ReferencedSOPInstanceUID]) @ normal, 0, atol=1e-3)


def test_every_decimal_string_has_at_most_16_characters(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    texts = [
        value.original_string if hasattr(value, "original_string") else str(value)
        for item in data.ROIContourSequence
        for contour in item.ContourSequence
        for value in contour.ContourData
    ]
    assert len(texts) > 100
    assert max(map(len, texts)) <= 16


@given(st.floats(-1e9, 1e9))
def test_decimal_strings_are_short_and_within_a_tenth_of_a_micron(value):
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=5.1e-5)


def test_contour_of_very_many_points_and_holes_is_kept_whole(tmp_path):
    def upright(data, k):
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient, data.PixelSpacing = [0, 0, STEP * k], [1.0, 1.0]
        data.Rows = data.Columns = 160

    paths = scan_files(tmp_path / "ct", upright, slices=2)
    array = np.zeros((160, 160, 2), np.uint8)
    array[:, :, 1] = np.random.default_rng(0).random((160, 160)) < 0.7
    segmentation = Segmentation(array, Geometry(array.shape, np.diag((-1.0, -1.0, STEP, 1.0))))
    path, _ = written(tmp_path, paths, segmentation)
    data = pydicom.dcmread(path)
    longest = max(len(c.get_item("ContourData").value) for c in data.ROIContourSequence[0].ContourSequence)
    assert longest > 2**16  # more than explicit VR could hold
    np.testing.assert_array_equal(read_segmentation(path, onto=segmentation.geometry).array, array)


def test_enhanced_source_is_referred_to_frame_by_frame(tmp_path):
    paths = enhanced(tmp_path / "mr")
    path, _ = written(tmp_path, paths, phantom(grid()))
    np.testing.assert_array_equal(read_segmentation(path, onto=grid()).array, phantom(grid()).array)
    source = pydicom.dcmread(paths[0])
    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    (image,) = contour.ContourImageSequence
    frame = source.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
    position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    normal = np.cross((0.8, 0.6, 0), (0, 0, -1))
    assert abs((np.array(contour.ContourData[:3], dtype=float) - position) @ normal) < 1e-3
    assert dciodvfy(path) == []


def test_gap_in_the_source_stays_a_gap(tmp_path):
    paths = scan_files(tmp_path / "ct", gapped)
    repaired = grid(SLICES + 1)
    array = np.zeros(repaired.shape, np.uint8)
    array[4:9, 4:9, 1:7] = 2
    path, _ = written(tmp_path, paths, Segmentation(array, repaired, LABELS))
    array[:, :, 3] = 0
    np.testing.assert_array_equal(read_segmentation(path, onto=repaired).array, array)


def test_empty_structures_are_left_out_with_a_finding_and_nothing_at_all_is_a_result(tmp_path):
    paths = scan_files(tmp_path / "ct")
    path, findings = written(tmp_path, paths, phantom(grid()))
    assert [finding.code for finding in findings] == ["empty-segments"]
    assert [item.ROIName for item in pydicom.dcmread(path).StructureSetROISequence] == ["liver", "Läsion"]
    nothing = Segmentation(np.zeros(grid().shape, np.uint8), grid(), LABELS)
    path, findings = written(tmp_path, paths, nothing)
    assert [finding.code for finding in findings] == ["empty-segments"]
    assert not read_segmentation(path, onto=grid()).array.any()
    assert dciodvfy(path) == []


def test_dice_on_a_grid_in_any_order_of_axes_is_one(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    for order in ((2, 0, 1), (1, 2, 0), (0, 2, 1)):
        turned = Geometry([grid().shape[axis] for axis in order], grid().affine[:, [*order, 3]])
        back = read_segmentation(path, onto=turned)
        np.testing.assert_array_equal(back.array, phantom(grid()).array.transpose(order))


def test_without_a_grid_contours_are_refused_with_the_remedy(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    with pytest.raises(InputError, match=r"plan\.dcm: contours have no grid.*--source"):
        read_segmentation(path)


def test_grid_that_is_oblique_to_the_contours_is_refused(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    with pytest.raises(GeometryError, match="not parallel to the planes"):
        read_segmentation(path, onto=Geometry((40, 40, 40), np.eye(4)))


def test_structures_that_share_voxels_are_refused_and_can_be_read_one_by_one(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    liver, lesion = data.ROIContourSequence
    lesion.ContourSequence = liver.ContourSequence
    data.save_as(path)
    with pytest.raises(GeometryError, match="'liver' and 'Läsion' share"):
        read_segmentation(path, onto=grid())
    back = read_segmentation(path, onto=grid(), names=["Läsion"])
    np.testing.assert_array_equal(back.array == 5, phantom(grid()).array == 2)


def test_points_and_open_lines_are_left_out_with_a_finding(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    data.save_as(path)
    assert [finding.code for finding in read_structures(path).findings] == ["open-contours"]


def test_exclusive_or_contours_are_counted_so(tmp_path):
    paths = scan_files(tmp_path / "ct")
    array = np.zeros(grid().shape, np.uint8)
    array[2:12, 2:12, 3] = 2
    path, _ = written(tmp_path, paths, Segmentation(array, grid(), LABELS))
    data = pydicom.dcmread(path)
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
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    whole = path.read_bytes()
    refused = []
    for cut in range(2, len(whole) - 300, 113):
        path.write_bytes(whole[:-cut])
        try:
            array = read_segmentation(path, onto=grid()).array
        except MedsegError as error:
            refused.append(str(error))
        else:
            np.testing.assert_array_equal(array, phantom(grid()).array)
    assert len(refused) > 30
    for message in refused:
        assert "plan.dcm: " in message
        assert "\n" not in message
        assert PATIENT not in message


def test_rtstruct_beside_its_images_is_no_scan(tmp_path):
    paths = scan_files(tmp_path / "ct")
    written(tmp_path / "ct", paths, phantom(grid()))
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


@pytest.mark.parametrize(
    "case",
    ["r06_ct_tilt_siemens_notag", "r08_ct_missing_slice_real", "r26_enh_mr_philips", "s17_double_oblique_aniso"],
)
def test_real_sources_give_back_what_was_drawn_on_them(tmp_path, shared_data, case):
    paths = [p for p in sorted((shared_data / "fixtures" / "dicom" / case / "data").rglob("*")) if p.is_file()]
    planes = read_source(paths).planes
    affine = np.eye(4)
    affine[:3] = np.column_stack((planes.column_step_mm, planes.row_step_mm, planes.normal, planes.origins_mm[0]))
    array = np.zeros((planes.columns, planes.rows, 1), np.uint8)
    array[10:20, 15:40] = 2
    array[12:15, 20:30] = 0
    path, _ = written(tmp_path, paths, Segmentation(array, Geometry(array.shape, affine), LABELS))
    drawn = rasterised(read_structures(path), planes, path).labels
    np.testing.assert_array_equal(drawn[0], array[:, :, 0].T)
    assert not drawn[1:].any()
    assert dciodvfy(path) == []
