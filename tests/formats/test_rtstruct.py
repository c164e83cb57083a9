"""RTSTRUCT, written: contours on the slices of the source."""

from functools import partial

import numpy as np
import pydicom
import pytest

from medseg.formats import read_segmentation
from medseg.formats.dicom_source import read_source
from medseg.formats.rtstruct_read import rasterised, read_structures
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.dicom_files import STEP
from tests.label_files import (
    LABELS,
    SLICES,
    area_mm2,
    bare,
    contours_in,
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
    written,
)

drawn = partial(written, output_type="dicom-rtstruct")


@pytest.mark.parametrize("change", [None, noisy, bare, tilted], ids=["plain", "noisy", "bare", "tilted"])
def test_labels_with_holes_and_islands_come_back_voxel_by_voxel(tmp_path, change):
    paths = scan_files(tmp_path / "ct", *([change] if change else []))
    segmentation = phantom(geometry_of(paths))
    path, _ = drawn(tmp_path, paths, segmentation)
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
    path, _ = drawn(tmp_path, paths, Segmentation(array, geometry_of(paths), LABELS))
    ((_, points),) = contours_in(path)
    centre = geometry_of(paths).to_world((3, 5, 2)) * (-1, -1, 1)
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=1e-4)
    assert area_mm2(points) == pytest.approx(1.5 * 0.5, rel=1e-3)


def test_enclosed_area_times_distance_of_slices_is_the_volume(tmp_path):
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    for index in (2, 5):
        volume = sum(area_mm2(points) for number, points in contours_in(path) if number == index) * STEP
        expected = (phantom(grid()).array == index).sum() * grid().voxel_volume_mm3
        assert volume == pytest.approx(expected, rel=1e-3)


def test_contours_refer_to_their_slices_and_the_set_to_all(tmp_path):
    paths = scan_files(tmp_path / "ct")
    path, _ = drawn(tmp_path, paths, phantom(grid()))
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
    path, _ = drawn(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    data = pydicom.dcmread(path)
    texts = [
        value.original_string if hasattr(value, "original_string") else str(value)
        for item in data.ROIContourSequence
        for contour in item.ContourSequence
        for value in contour.ContourData
    ]
    assert len(texts) > 100
    assert max(map(len, texts)) <= 16


def test_contour_of_very_many_points_and_holes_is_kept_whole(tmp_path):
    def upright(data, k):
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient, data.PixelSpacing = [0, 0, STEP * k], [1.0, 1.0]
        data.Rows = data.Columns = 160

    paths = scan_files(tmp_path / "ct", upright, slices=2)
    array = np.zeros((160, 160, 2), np.uint8)
    array[:, :, 1] = np.random.default_rng(0).random((160, 160)) < 0.7
    segmentation = Segmentation(array, Geometry(array.shape, np.diag((-1.0, -1.0, STEP, 1.0))))
    path, _ = drawn(tmp_path, paths, segmentation)
    data = pydicom.dcmread(path)
    longest = max(len(c.get_item("ContourData").value) for c in data.ROIContourSequence[0].ContourSequence)
    assert longest > 2**16  # more than explicit VR could hold
    np.testing.assert_array_equal(read_segmentation(path, onto=segmentation.geometry).array, array)


def test_enhanced_source_is_referred_to_frame_by_frame(tmp_path):
    paths = enhanced(tmp_path / "mr")
    path, _ = drawn(tmp_path, paths, phantom(grid()))
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
    path, _ = drawn(tmp_path, paths, Segmentation(array, repaired, LABELS))
    array[:, :, 3] = 0
    np.testing.assert_array_equal(read_segmentation(path, onto=repaired).array, array)


def test_empty_structures_are_left_out_with_a_finding_and_nothing_at_all_is_a_result(tmp_path):
    paths = scan_files(tmp_path / "ct")
    path, findings = drawn(tmp_path, paths, phantom(grid()))
    assert [finding.code for finding in findings] == ["empty-segments"]
    assert [item.ROIName for item in pydicom.dcmread(path).StructureSetROISequence] == ["liver", "Läsion"]
    nothing = Segmentation(np.zeros(grid().shape, np.uint8), grid(), LABELS)
    path, findings = drawn(tmp_path, paths, nothing)
    assert [finding.code for finding in findings] == ["empty-segments"]
    assert not read_segmentation(path, onto=grid()).array.any()
    assert dciodvfy(path) == []


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
    path, _ = drawn(tmp_path, paths, Segmentation(array, Geometry(array.shape, affine), LABELS))
    found = rasterised(read_structures(path), planes, path).labels
    np.testing.assert_array_equal(found[0], array[:, :, 0].T)
    assert not found[1:].any()
    assert dciodvfy(path) == []
