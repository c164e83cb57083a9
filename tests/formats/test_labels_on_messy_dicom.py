"""Labels of scans that are no plain stack lie in DICOM files where they lie in memory."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from medseg.convert import convert
from medseg.errors import GeometryError, InputError
from medseg.formats import read, read_segmentation, scan, write, write_onto_source
from medseg.formats.dicom import planes_of
from medseg.geometry import Geometry
from medseg.study import ScanOptions
from medseg.volume import Segmentation
from tests.dicom_files import NORMAL, ORIGIN, STEP, VOXELS, make, save
from tests.enhanced_files import enhanced, frame
from tests.test_cli import medseg_command

CASES = ("s18_tilt20", "s02_drop_interior", "r26_enh_mr_philips")
KINDS = ("dicom-seg", "dicom-rtstruct")


def block(geometry: Geometry) -> Segmentation:
    """A block in the middle, two fifths of the volume long along each axis."""
    array = np.zeros(geometry.shape, np.uint8)
    array[tuple(slice(int(0.3 * n), max(int(0.7 * n), int(0.3 * n) + 1)) for n in geometry.shape)] = 3
    return Segmentation(array, geometry)


def centroid_mm(segmentation: Segmentation) -> np.ndarray:
    index = np.argwhere(segmentation.array).mean(axis=0)
    return segmentation.geometry.affine[:3, :3] @ index + segmentation.geometry.affine[:3, 3]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_lie_where_the_segmentation_in_memory_lies(case, kind, tmp_path, shared_data):
    folder = shared_data / "fixtures" / "dicom" / case / "data"
    volume = read(folder)
    labels = block(volume.geometry)
    write(labels, tmp_path / "mask.nii.gz")
    convert(tmp_path / "mask.nii.gz", tmp_path / "labels.dcm", source=folder, output_type=kind)
    convert(tmp_path / "labels.dcm", tmp_path / "back.nii.gz", source=folder)
    back = read_segmentation(tmp_path / "back.nii.gz")
    assert back.geometry.matches(volume.geometry, tolerance=1e-3)
    at_planes = np.rint([volume.geometry.to_voxel(p.geometry.affine[:3, 3])[2] for p in volume.sources]).astype(int)
    # What was interpolated between slices has none to lie on; the slices that there are have all of their labels.
    assert dice(back.array[..., at_planes] > 0, labels.array[..., at_planes] > 0) == 1
    step_mm = np.linalg.norm(volume.geometry.affine[:3, 2])
    assert np.linalg.norm(centroid_mm(back) - centroid_mm(labels)) < step_mm / 2


def test_segmentation_of_an_enhanced_image_names_its_frames(tmp_path, shared_data):
    folder = shared_data / "fixtures" / "dicom" / "r26_enh_mr_philips" / "data"
    volume = read(folder)
    write_onto_source(block(volume.geometry), tmp_path / "seg.dcm", "dicom-seg", [volume.sources[0].path])
    frames = {
        int(image.ReferencedFrameNumber)
        for frame in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
        for derived in frame.DerivationImageSequence
        for image in derived.SourceImageSequence
    }
    assert frames <= {plane.frame + 1 for plane in volume.sources}
    assert frames


def test_result_of_a_phase_refers_to_the_files_of_that_phase_alone(shared_data):
    series = scan(shared_data / "fixtures" / "dicom" / "s33_4d_phases" / "data").readable[0]
    taken = [{plane.path for plane in planes_of(series, frame)} for frame in range(series.frames)]
    assert set.union(*taken) == set(series.paths)
    assert sum(map(len, taken)) == len(series.paths)
    assert taken[1] == {plane.path for plane in read(series, frame=1).sources}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_a_volume_of_several_in_one_file_refer_to_its_frames(kind, tmp_path):
    frames = [frame(k, time=time) for time in (1, 2) for k in range(len(VOXELS))]
    folder = save(tmp_path / "mr", enhanced(frames, np.concatenate([VOXELS, VOXELS + 1])))
    volume = read(folder, frame=1)
    write(block(volume.geometry), tmp_path / "mask.nii.gz")
    made = tmp_path / "labels.dcm"
    command = ("convert", tmp_path / "mask.nii.gz", made, "--source", folder, "--output-type", kind, "--frame", 1)
    assert medseg_command(*command).exit_code == 0
    numbers = {int(one.value) for one in pydicom.dcmread(made).iterall() if one.keyword == "ReferencedFrameNumber"}
    assert numbers
    assert numbers <= {plane.frame + 1 for plane in volume.sources} == {5, 6, 7, 8}


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-binary"])
def test_pictures_that_do_not_fill_whole_bytes_come_back(kind, tmp_path):
    folder = save(tmp_path / "ct", *(make(k) for k in range(len(VOXELS))))
    volume = read(folder)
    labels = Segmentation((VOXELS.transpose(2, 1, 0) > 2000).astype(np.uint8), volume.geometry)
    assert VOXELS[0].size % 8
    write_onto_source(labels, tmp_path / "seg.dcm", kind, volume.sources)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm").array, labels.array)
    theirs = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array  # in the file's own order of frames
    assert {plane.tobytes() for plane in theirs.astype(bool)} == {plane.tobytes() for plane in VOXELS > 2000}


def test_convert_refuses_an_irregular_source_if_it_is_told_so(tmp_path):
    slices = [make(k) for k in range(4)]
    slices[3].ImagePositionPatient = [round(float(x), 6) for x in ORIGIN + 5 * STEP * NORMAL]
    folder = save(tmp_path / "ct", *slices)
    write(block(read(folder).geometry), tmp_path / "mask.nii.gz")
    command = ("convert", tmp_path / "mask.nii.gz", tmp_path / "labels.dcm", "--source", folder)
    assert medseg_command(*command).exit_code == 0
    assert medseg_command(*command, "--geometry", "strict").exit_code == 4


def test_mosaic_is_refused_as_a_source(tmp_path, shared_data):
    folder = shared_data / "fixtures" / "dicom" / "r20_mr_mosaic_fmri" / "data"
    series = scan(folder).readable[0]
    with pytest.raises(GeometryError, match="mosaic"):
        write_onto_source(block(read(series, frame=0).geometry), tmp_path / "x.dcm", "dicom-seg", series.paths[:1])
    assert list(tmp_path.iterdir()) == []


def test_labels_in_a_zip_are_read_onto_the_scan_in_another(tmp_path, shared_data):
    folder = shared_data / "fixtures" / "dicom" / "s18_tilt20" / "data"
    shutil.make_archive(str(tmp_path / "scan"), "zip", folder)
    labels = block(read(folder).geometry)
    (tmp_path / "labels").mkdir()
    made = tmp_path / "labels" / "plan.dcm"
    write_onto_source(labels, made, "dicom-rtstruct", scan(tmp_path / "scan.zip").series[0].paths)
    shutil.make_archive(str(tmp_path / "labels"), "zip", tmp_path / "labels")
    convert(tmp_path / "labels.zip", tmp_path / "back.nii.gz", source=tmp_path / "scan.zip")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "back.nii.gz").array > 0, labels.array > 0)
    study = scan([tmp_path / "labels", tmp_path / "scan.zip"], options=ScanOptions("strict"))
    assert [one.format for one in study.series] == ["dicom"]
    assert [reason for path, reason in study.skipped if path == made and "holds labels" in reason]
    with pytest.raises(InputError, match="holds labels"):
        read(made)
