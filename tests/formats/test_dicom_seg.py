"""DICOM SEG, written: labels, names and references."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.formats import read_segmentation
from medseg.formats.dicom_seg_read import read_frames
from medseg.formats.dicom_source import read_source
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import Segmentation
from tests.dicom_files import NORMAL, ORIGIN, PATIENT, STEP, save
from tests.label_files import (
    LABELS,
    SLICES,
    bare,
    both_types,
    dciodvfy,
    enhanced,
    geometry_of,
    grid,
    noisy,
    phantom,
    scan_files,
    tilted,
    uids,
    written,
)


@both_types
@pytest.mark.parametrize("change", [noisy, bare, tilted], ids=lambda change: change.__name__)
def test_labels_come_back_from_sources_that_are_tilted_noisy_or_bare(tmp_path, output_type, change):
    paths = scan_files(tmp_path / "ct", change)
    segmentation = phantom(geometry_of(paths))
    path, _ = written(tmp_path, paths, segmentation, output_type)
    back = read_segmentation(path, onto=segmentation.geometry, source=paths)
    np.testing.assert_array_equal(back.array, segmentation.array)
    assert back.findings == ()
    if output_type == "dicom-seg-binary":
        assert dciodvfy(path) == []


@both_types
def test_labels_of_an_enhanced_source_come_back_and_refer_to_its_frames(tmp_path, output_type):
    paths = enhanced(tmp_path / "mr")
    path, _ = written(tmp_path, paths, phantom(grid()), output_type)
    np.testing.assert_array_equal(read_segmentation(path, onto=grid()).array, phantom(grid()).array)
    source, seg = pydicom.dcmread(paths[0]), pydicom.dcmread(path)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        referred = source.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert referred.PlanePositionSequence[0].ImagePositionPatient == position
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_segmentation_on_another_grid_gets_the_nearest_voxel_of_every_slice(tmp_path):
    paths = scan_files(tmp_path / "ct", tilted)
    upright = grid(SLICES + 4)  # orthogonal, as a tilted scan is resampled for a network
    array = np.zeros(upright.shape, np.uint8)
    array[:, 8:20, :] = 2
    path, _ = written(tmp_path, paths, Segmentation(array, upright, LABELS))
    frames = read_frames(path)
    for k, origin in enumerate(frames.planes.origins_mm):
        row, column = np.meshgrid(np.arange(24), np.arange(20), indexing="ij")
        points = origin + column[..., None] * frames.planes.column_step_mm + row[..., None] * frames.planes.row_step_mm
        j = upright.to_voxel(points)[..., 1]
        clear = np.abs(j - np.rint(j)) < 0.49
        np.testing.assert_array_equal((frames.labels[k] == 2)[clear], ((j > 7.5) & (j < 19.5))[clear])


@both_types
def test_every_source_instance_and_the_series_are_referred_to(tmp_path, output_type):
    paths = scan_files(tmp_path / "ct")
    path, _ = written(tmp_path, paths, phantom(grid()), output_type)
    seg = pydicom.dcmread(path)
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == pydicom.dcmread(paths[0]).SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == uids(paths)
    assert {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence} == uids(paths)
    by_position = {tuple(pydicom.dcmread(p).ImagePositionPatient): pydicom.dcmread(p).SOPInstanceUID for p in paths}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert image.ReferencedSOPInstanceUID == by_position[tuple(position)]
    assert seg.StudyInstanceUID == pydicom.dcmread(paths[0]).StudyInstanceUID
    assert seg.FrameOfReferenceUID == pydicom.dcmread(paths[0]).FrameOfReferenceUID


@both_types
def test_segments_bear_name_code_category_algorithm_and_colour(tmp_path, output_type):
    segmentation = phantom(grid())
    segmentation.array[0, 0, 0] = 7
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), segmentation, output_type)
    seg = pydicom.dcmread(path)
    liver, lesion, duct = [item for item in seg.SegmentSequence if item.SegmentNumber]
    numbers = (2, 5, 7) if output_type == "dicom-seg" else (1, 2, 3)
    assert (liver.SegmentNumber, lesion.SegmentNumber, duct.SegmentNumber) == numbers
    assert [item.SegmentLabel for item in (liver, lesion, duct)] == ["liver", "Läsion", "duct"]
    types = [item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in (liver, lesion, duct)]
    assert types == ["10200004", "108369006", "85756007"]  # the last is the documented fallback
    categories = [item.SegmentedPropertyCategoryCodeSequence[0].CodeValue for item in (liver, lesion, duct)]
    assert categories == ["123037004", "49755003", "123037004"]
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    identification = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("abdomen", "2.1.0")
    assert len(liver.RecommendedDisplayCIELabValue) == 3
    assert read_segmentation(path).labels.names == LABELS.names
    assert read_segmentation(path).labels[2].code == LABELS[2].code


def test_labelmap_is_run_length_encoded_and_holds_all_slices(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    seg = pydicom.dcmread(path)
    assert (seg.SegmentationType, seg.file_meta.TransferSyntaxUID) == ("LABELMAP", RLELossless)
    assert seg.NumberOfFrames == SLICES
    assert read_segmentation(path).geometry.matches(grid())


def test_binary_stores_one_bit_and_only_frames_that_hold_something(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-seg-binary")
    seg = pydicom.dcmread(path)
    assert (seg.SegmentationType, seg.BitsAllocated) == ("BINARY", 1)
    assert seg.NumberOfFrames == 5 + 3
    assert dciodvfy(path) == []


@both_types
def test_empty_segments_are_left_out_with_a_finding(tmp_path, output_type):
    path, findings = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), output_type)
    assert [(finding.code, "duct" in finding.message) for finding in findings] == [("empty-segments", True)]
    assert read_segmentation(path).labels.names == {2: "liver", 5: "Läsion"}


@both_types
@pytest.mark.parametrize("labels", [LABELS, None])
def test_segmentation_without_any_label_is_a_result(tmp_path, output_type, labels):
    nothing = Segmentation(np.zeros(grid().shape, np.uint8), grid(), labels)
    path, findings = written(tmp_path, scan_files(tmp_path / "ct"), nothing, output_type)
    assert not read_segmentation(path, onto=grid()).array.any()
    assert [finding.code for finding in findings] == ["empty-segments"]


def test_labels_without_names_are_called_by_their_number(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid(), labels=None))
    assert read_segmentation(path).labels.names == {2: "label 2", 5: "label 5"}


def test_patient_and_study_are_repeated_and_illegal_values_are_not(tmp_path):
    paths = scan_files(
        tmp_path / "ct",
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Yamada^Tarou=山田^太郎",
        PatientID="../../etc\npasswd",
        PatientBirthDate="1970.99.99",
        PatientSex="unknown",
        AccessionNumber="A1",
        StudyDate="20240229",
    )
    path, _ = written(tmp_path, paths, phantom(grid()))
    seg = pydicom.dcmread(path)
    assert (str(seg.PatientName), seg.PatientID) == ("Yamada^Tarou=山田^太郎", "../../etc passwd")
    assert (seg.PatientBirthDate, seg.PatientSex, seg.AccessionNumber) == ("", "", "A1")
    assert seg.StudyDate == "20240229"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_source_that_cannot_be_referred_to_is_refused_by_name_without_patient_data(tmp_path, keyword):
    def without(data, k):
        if k == 3:
            delattr(data, keyword)

    paths = scan_files(tmp_path / "ct", without)
    with pytest.raises(InputError, match=f"has no {keyword}.*write NIfTI") as caught:
        written(tmp_path, paths, phantom(grid()))
    assert PATIENT not in str(caught.value)
    assert not (tmp_path / "seg.dcm").exists()


def test_source_without_frame_of_reference_gets_one_that_is_the_same_every_time(tmp_path):
    paths = scan_files(tmp_path / "ct", FrameOfReferenceUID=None)
    uids_ = set()
    for output_type in ("dicom-seg", "dicom-seg-binary"):
        path, findings = written(tmp_path, paths, phantom(grid()), output_type)
        assert "no-frame-of-reference" in [finding.code for finding in findings]
        uids_.add(pydicom.dcmread(path).FrameOfReferenceUID)
    assert len(uids_) == 1


def test_segmentation_of_another_place_is_refused(tmp_path):
    affine = grid().affine.copy()
    affine[:3, 3] += 500
    elsewhere = phantom(Geometry(grid().shape, affine))
    with pytest.raises(GeometryError, match="No labelled voxel lies on a slice"):
        written(tmp_path, scan_files(tmp_path / "ct"), elsewhere)


def test_sources_of_two_series_are_refused(tmp_path):
    def split(data, k):
        data.SeriesInstanceUID = f"1.2.3.{4 + k // 4}"

    with pytest.raises(InputError, match="2 series"):
        written(tmp_path, scan_files(tmp_path / "ct", split), phantom(grid()))


def test_label_beyond_16_bits_is_refused(tmp_path):
    segmentation = Segmentation(phantom(grid()).array.astype(np.uint32) * 30000, grid())
    with pytest.raises(ConfigError, match="150000 is beyond"):
        written(tmp_path, scan_files(tmp_path / "ct"), segmentation)


def test_slices_that_are_there_twice_or_without_a_place_are_written_once_or_not_at_all(tmp_path):
    def misplaced(data, k):
        if k == 6:
            del data.ImagePositionPatient

    paths = scan_files(tmp_path / "ct", misplaced)
    copy = tmp_path / "ct" / "copy.dcm"
    copy.write_bytes(paths[0].read_bytes())
    source = read_source([*paths, copy])
    assert source.planes.shape[0] == SLICES - 1
    assert [finding.code for finding in source.findings] == ["source-slices-left-out"]


def test_a_label_set_of_another_language_and_length_survives(tmp_path):
    labels = LabelSet.from_names({2: "肝臓", 5: "x" * 80})
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid(), labels))
    assert read_segmentation(path).labels.names == {2: "肝臓", 5: "x" * 64}


def test_source_helpers_agree_on_where_the_slices_are(tmp_path):
    paths = scan_files(tmp_path / "ct")
    source = read_source(paths)
    ras = np.diag((-1.0, -1.0, 1.0)) @ (ORIGIN + 2 * STEP * NORMAL)
    np.testing.assert_allclose(source.planes.origins_mm[2], ras, atol=1e-5)
    assert source.planes.step_mm == pytest.approx(STEP)
    save(tmp_path / "empty")
    with pytest.raises(GeometryError, match="no slice says where it lies"):
        read_source(scan_files(tmp_path / "placeless", ImagePositionPatient=None))
