"""DICOM SEG of ours, read by highdicom and dcmqi, and on the slices of real scanners."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg.formats import read_segmentation
from medseg.formats.dicom_seg_read import read_frames
from medseg.formats.dicom_source import read_source
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.dicom_files import STEP
from tests.label_files import (
    LABELS,
    SLICES,
    both_types,
    dciodvfy,
    gapped,
    grid,
    noisy,
    phantom,
    scan_files,
    written,
)


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
