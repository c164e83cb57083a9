"""DICOM SEG, read: where its frames lie, and what other programs make of one."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg.errors import GeometryError, InputError
from medseg.formats import candidate, read, read_segmentation, scan
from medseg.volume import Segmentation
from tests.label_files import (
    LABELS,
    both_types,
    grid,
    phantom,
    refused_when_cut,
    scan_files,
    written,
)


def test_seg_beside_its_images_is_no_scan_and_is_found_as_labels(tmp_path):
    paths = scan_files(tmp_path / "ct")
    written(tmp_path / "ct", paths, phantom(grid()))
    study = scan(tmp_path / "ct")
    assert [series.format for series in study.series] == ["dicom"]
    assert [(path.name, "labels" in reason) for path, reason in study.skipped] == [("seg.dcm", True)]
    np.testing.assert_array_equal(read_segmentation(tmp_path / "ct").array, phantom(grid()).array)
    with pytest.raises(InputError, match="holds labels, not a scan"):
        read(tmp_path / "ct" / "seg.dcm")


def test_seg_of_one_slice_takes_its_step_from_the_file(tmp_path):
    array = np.zeros(grid().shape, np.uint8)
    array[4:8, 5:9, 4] = 2
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), Segmentation(array, grid(), LABELS), "dicom-seg-binary")
    back = read_segmentation(path)
    assert back.geometry.spacing_mm == pytest.approx(grid().spacing_mm)
    np.testing.assert_array_equal(back.array[:, :, 0], array[:, :, 4])


def test_seg_of_another_frame_of_reference_is_not_put_onto_a_scan(tmp_path):
    paths = scan_files(tmp_path / "ct")
    path, _ = written(tmp_path, paths, phantom(grid()))

    def other(data, k):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{k}"
        data.FrameOfReferenceUID = "1.2.9"

    stranger = scan_files(tmp_path / "other", other)
    with pytest.raises(GeometryError, match=r"seg\.dcm.*another frame of reference"):
        read_segmentation(path, onto=grid(), source=stranger)


def test_fractional_seg_is_taken_above_one_half_with_a_finding(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-seg-binary")
    seg = pydicom.dcmread(path)
    bits = seg.pixel_array
    seg.SegmentationType, seg.MaximumFractionalValue = "FRACTIONAL", 200
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit = 7
    seg.PixelData = (bits * 101 + (1 - bits) * 99).astype(np.uint8).tobytes()
    seg.save_as(path)
    back = read_segmentation(path, onto=grid())
    np.testing.assert_array_equal(back.array, phantom(grid()).array)
    assert [finding.code for finding in back.findings] == ["fractional"]


@both_types
def test_cut_seg_is_refused_in_one_line_or_gives_every_voxel(tmp_path, output_type):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), output_type)
    assert len(refused_when_cut(path, every=211)) > 20


def test_real_binary_seg_equals_the_masks_it_was_made_from(shared_data):
    case = shared_data / "fixtures" / "dcmqi_ct_3slice"
    back = read_segmentation(case / "labels_dicomseg" / "liver.dcm")
    truth = sitk.ReadImage(str(case / "labels" / "liver_seg.nrrd"))
    np.testing.assert_array_equal(back.array, sitk.GetArrayFromImage(truth).T)
    assert back.geometry.matches(read(case / "images_dicom").geometry)
    assert back.labels.names == {1: "Liver"}


def test_real_seg_whose_segments_overlap_is_refused_and_can_be_read_one_by_one(shared_data):
    path = shared_data / "fixtures" / "dcmqi_ct_3slice" / "labels_dicomseg" / "partial_overlaps.dcm"
    with pytest.raises(GeometryError, match=r"'GREEN' and 'ORANGE' share \d+ voxels.*--roi-subset"):
        read_segmentation(path)
    one = read_segmentation(path, names=["GREEN"])
    assert one.labels.names == {1: "GREEN"}
    assert one.array.any()


def test_real_seg_maps_onto_the_classic_and_the_enhanced_form_of_its_scan(shared_data):
    case = shared_data / "fixtures" / "dicom" / "r31_legacy_enhanced_ct_seg" / "data"
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "nrrd" / "label.nrrd"))).T
    classic = candidate(case / "classic").paths
    for source in (classic, (case / "multiframe" / "mf.dcm",)):
        back = read_segmentation(case / "seg" / "label.seg", onto=read(case / "classic").geometry, source=source)
        np.testing.assert_array_equal(back.array, truth)


def test_label_numbers_of_other_programs_are_their_segment_numbers(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-seg-binary")
    seg = pydicom.dcmread(path)
    for item in seg.SegmentSequence:
        del item.SegmentDescription
    seg.save_as(path)
    assert read_segmentation(path).labels.names == {1: "liver", 2: "Läsion"}
