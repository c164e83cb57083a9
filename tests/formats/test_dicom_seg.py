import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import RLELossless

from medseg.errors import ConfigError, GeometryError, InputError, MedsegError
from medseg.formats import Algorithm, candidate, read, read_segmentation, scan, write_onto_source
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

TYPES = ("dicom-seg", "dicom-seg-binary")
both_types = pytest.mark.parametrize("output_type", TYPES)
MODEL = Algorithm("abdomen", "2.1.0")


def written(tmp_path, paths, segmentation, output_type="dicom-seg"):
    """The path of a SEG, and the findings on the way."""
    path = tmp_path / "seg.dcm"
    return path, write_onto_source(segmentation, path, output_type, paths, MODEL)


def as_highdicom_sees_it(path):
    """Voxels by highdicom's reader, (slice, row, column), numbered as in the segment descriptions "Label N"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = highdicom.seg.segread(path)
        volume = seg.get_volume(combine_segments=True)
    number = {s.SegmentNumber: int(s.SegmentDescription.split()[1]) for s in seg.SegmentSequence if s.SegmentNumber}
    array = np.vectorize(lambda value: number.get(value, 0))(volume.array)
    lps_to_ras = np.diag((-1.0, -1.0, 1.0, 1.0))
    return array, lps_to_ras @ volume.affine


def in_world(array, affine):
    """{label: sorted voxel centres} of labels on any grid."""
    indices = np.argwhere(array)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    return sorted((int(v), *map(float, np.round(p, 2))) for v, p in zip(array[tuple(indices.T)], points, strict=True))


@both_types
def test_highdicoms_reader_finds_the_same_voxels_at_the_same_places(tmp_path, output_type):
    segmentation = phantom(grid())
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), segmentation, output_type)
    theirs = in_world(*as_highdicom_sees_it(path))
    ours = in_world(segmentation.array, segmentation.geometry.affine)
    assert [one[0] for one in theirs] == [one[0] for one in ours]
    np.testing.assert_allclose(theirs, ours, atol=0.011)


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


@both_types
def test_gap_in_the_source_is_neither_squeezed_nor_filled(tmp_path, output_type):
    paths = scan_files(tmp_path / "ct", gapped)
    repaired = grid(SLICES + 1)  # as a reader repairs it, one interpolated slice at place 3
    array = np.zeros(repaired.shape, np.uint8)
    array[4:9, 4:9, 1:7] = 2
    path, findings = written(tmp_path, paths, Segmentation(array, repaired, LABELS), output_type)
    frames = read_frames(path)
    np.testing.assert_allclose(np.diff(frames.planes.along_mm)[1 if output_type == "dicom-seg-binary" else 2], 2 * STEP)
    there = array.copy()
    there[:, :, 3] = 0
    np.testing.assert_array_equal(read_segmentation(path, onto=repaired).array, there)
    assert "volume-on-source-slices" not in [finding.code for finding in findings]


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
    for output_type in TYPES:
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
    whole = path.read_bytes()
    refused = []
    for cut in range(2, len(whole) - 300, 211):
        path.write_bytes(whole[:-cut])
        try:
            array = read_segmentation(path, onto=grid()).array
        except MedsegError as error:
            refused.append(str(error))
        else:
            np.testing.assert_array_equal(array, phantom(grid()).array)
    assert len(refused) > 20
    for message in refused:
        assert "seg.dcm: " in message
        assert "\n" not in message
        assert PATIENT not in message


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


REAL = [
    "r06_ct_tilt_siemens_notag",
    "r08_ct_missing_slice_real",
    "r11_mr_sagittal_ge",
    "r26_enh_mr_philips",
    "s17_double_oblique_aniso",
    "s18_tilt20",
    "s19_prone_reversed",
    "s36_hostile_strings",
    "s40_single_slice",
]


@both_types
@pytest.mark.parametrize("case", REAL)
def test_real_sources_carry_labels_that_no_library_finds_elsewhere(tmp_path, shared_data, case, output_type):
    paths = [p for p in sorted((shared_data / "fixtures" / "dicom" / case / "data").rglob("*")) if p.is_file()]
    source = read_source(paths)
    first = source.planes
    affine = np.eye(4)
    affine[:3] = np.column_stack((first.column_step_mm, first.row_step_mm, first.normal, first.origins_mm[0]))
    whole = np.zeros((first.columns, first.rows, 1), np.uint8)  # on the first slice alone
    whole[10:20, 15:40] = 2
    path, _ = written(tmp_path, paths, Segmentation(whole, Geometry(whole.shape, affine), LABELS), output_type)
    frames = read_frames(path)
    np.testing.assert_array_equal(frames.labels[0], whole[:, :, 0].T)
    np.testing.assert_allclose(frames.planes.origins_mm[0], first.origins_mm[0], atol=1e-4)
    assert not frames.labels[1:].any()
    if output_type == "dicom-seg-binary":
        assert dciodvfy(path) == []


def test_label_numbers_of_other_programs_are_their_segment_numbers(tmp_path):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-seg-binary")
    seg = pydicom.dcmread(path)
    for item in seg.SegmentSequence:
        del item.SegmentDescription
    seg.save_as(path)
    assert read_segmentation(path).labels.names == {1: "liver", 2: "Läsion"}


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


@both_types
@pytest.mark.parametrize("change", [None, noisy, gapped], ids=["plain", "noisy", "gapped"])
def test_dcmqis_reader_finds_the_same_voxels_at_the_same_places(tmp_path, output_type, change):
    program = shutil.which("segimage2itkimage") or shutil.which(Path(sys.executable).with_name("segimage2itkimage"))
    if program is None:
        pytest.skip("needs segimage2itkimage (pip install dcmqi)")
    segmentation = phantom(grid(SLICES + 1) if change is gapped else grid())
    if change is gapped:
        segmentation.array[:, :, 3] = 0
    paths = scan_files(tmp_path / "ct", *([change] if change else []))
    path, _ = written(tmp_path, paths, segmentation, output_type)
    command = [program, "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    theirs = set()
    for file in tmp_path.glob("*.nrrd"):
        image = sitk.ReadImage(str(file))
        indices = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
        theirs |= {tuple(image.TransformIndexToPhysicalPoint(index.tolist())) for index in indices}
    ours = segmentation.geometry.to_world(np.argwhere(segmentation.array)) * (-1, -1, 1)
    np.testing.assert_allclose(sorted(map(rounded, theirs)), sorted(map(rounded, ours)), atol=0.02)


def rounded(point):
    return tuple(float(value) for value in np.round(point, 1))
