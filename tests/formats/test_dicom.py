from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medseg.errors import InputError
from medseg.formats import read, scan
from medseg.study import Series
from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, ROW, ROW_SPACING, STEP, VOXELS, make, save, series


def codes(found: Any) -> list[str]:
    return [finding.code for finding in found.findings]


def test_slices_are_sorted_by_position_and_placed_by_their_own_geometry(tmp_path: Path) -> None:
    volume = read(series(tmp_path / "ct"))
    assert volume.array.shape == (1, 5, 6, 4)
    assert (volume.array.dtype, volume.modality, volume.findings) == (np.dtype(np.int16), "CT", ())
    np.testing.assert_array_equal(volume.array[0], VOXELS.transpose(2, 1, 0).astype(int) - 1024)
    for i, j, k in np.ndindex(5, 6, 4):
        lps = ORIGIN + i * COLUMN_SPACING * ROW + j * ROW_SPACING * COLUMN + k * STEP * NORMAL
        np.testing.assert_allclose(volume.geometry.to_world((i, j, k)), lps * (-1, -1, 1), atol=1e-4)


def test_volume_is_the_one_that_simpleitk_reads(data: Path) -> None:
    volume = read(data / "ct_dicom")
    itk = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(data / "ct_dicom")))
    np.testing.assert_array_equal(volume.array[0], SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0))
    for index in ((0, 0, 0), (511, 0, 2), (100, 400, 1)):
        lps = itk.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.geometry.to_world(index), np.multiply(lps, (-1, -1, 1)), atol=1e-3)


def test_scan_tells_the_grid_and_its_series_reads_the_same(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (found,) = scan(folder).series
    assert (found.shape, found.modality, len(found.paths)) == ((5, 6, 4), "CT", 4)
    np.testing.assert_allclose(found.spacing_mm, (COLUMN_SPACING, ROW_SPACING, STEP), atol=1e-5)
    by_hand = read(Series(found.paths[::-1], "dicom"))
    np.testing.assert_array_equal(read(found).array, by_hand.array)
    np.testing.assert_array_equal(read(folder).array, by_hand.array)


def test_each_slice_has_its_own_slope_and_the_result_is_float32(tmp_path: Path) -> None:
    slopes = (0.5, 0.75, 1.25, 3.0)
    volume = read(save(tmp_path / "pt", *(make(k, Modality="PT", RescaleSlope=s) for k, s in enumerate(slopes))))
    assert volume.array.dtype == np.float32
    expected = VOXELS.transpose(2, 1, 0) * np.array(slopes) - 1024
    np.testing.assert_allclose(volume.array[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, np.uint16),
        ({"RescaleIntercept": -5}, np.int16),
        ({"RescaleIntercept": 65000}, np.uint32),
        ({"RescaleIntercept": -40000}, np.int32),
        ({"RescaleIntercept": 0.5}, np.float32),
        ({"RescaleSlope": 2}, np.float32),
        ({"PixelRepresentation": 1, "RescaleIntercept": 0}, np.int16),
    ],
)
def test_integers_stay_integers_of_a_type_that_holds_them(changes: dict[str, Any], dtype: type, tmp_path: Path) -> None:
    volume = read(series(tmp_path / "ct", **changes))
    assert volume.array.dtype == dtype
    stored = VOXELS.transpose(2, 1, 0).astype(int)
    if changes.get("PixelRepresentation"):
        stored = np.where(stored >= 2048, stored - 4096, stored)  # 12 bits with sign
    slope, intercept = changes.get("RescaleSlope", 1) or 1, changes.get("RescaleIntercept", -1024) or 0
    np.testing.assert_array_equal(volume.array[0], stored * slope + intercept)


def test_unused_high_bits_are_masked(tmp_path: Path) -> None:
    assert (VOXELS | 0x9000).max() > 4095
    volume = read(save(tmp_path / "ct", *(make(k, VOXELS | np.uint16(0x9000)) for k in range(4))))
    np.testing.assert_array_equal(volume.array[0], VOXELS.transpose(2, 1, 0).astype(int) - 1024)


def test_monochrome1_keeps_stored_values(tmp_path: Path) -> None:
    volume = read(series(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(volume.array[0], VOXELS.transpose(2, 1, 0).astype(int) - 1024)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_plain_encodings_are_read(syntax: UID, tmp_path: Path) -> None:
    slices = [make(k) for k in range(4)]
    for one in slices:
        one.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            one.PixelData = VOXELS[slices.index(one)].astype(">u2").tobytes()
    volume = read(save(tmp_path / "ct", *slices))
    np.testing.assert_array_equal(volume.array[0], VOXELS.transpose(2, 1, 0).astype(int) - 1024)


def test_files_without_preamble_and_without_ending_are_read(tmp_path: Path) -> None:
    for k in range(4):
        one = make(k)
        del one.file_meta, one.preamble
        pydicom.dcmwrite(tmp_path / f"IM{k}", one, implicit_vr=True, little_endian=True)
    assert (tmp_path / "IM0").read_bytes()[:4] == b"\x08\0\x08\0"
    np.testing.assert_array_equal(read(tmp_path).array[0], VOXELS.transpose(2, 1, 0).astype(int) - 1024)


def test_single_slice_uses_its_thickness_with_a_finding(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "ct", make(0, SliceThickness=2.5)))
    assert volume.geometry.spacing_mm == pytest.approx((COLUMN_SPACING, ROW_SPACING, 2.5))
    assert codes(volume) == ["single-slice"]


def test_copies_are_dropped_with_a_finding(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "ct", *(make(k) for k in (0, 1, 2, 3, 1, 2))))
    assert volume.array.shape == (1, 5, 6, 4)
    assert codes(volume) == ["duplicates"]


def test_two_series_in_a_folder_become_two_candidates(tmp_path: Path) -> None:
    other = [make(k, SeriesInstanceUID=UID("1.2.3.5"), SOPInstanceUID=UID(f"1.2.3.5.{k}")) for k in range(4)]
    folder = save(tmp_path / "ct", *(make(k) for k in range(4)), *other)
    assert [len(one.paths) for one in scan(folder).readable] == [4, 4]
    with pytest.raises(InputError, match="2 scans found, give one of them"):
        read(folder)


def test_two_patients_under_one_series_uid_are_never_merged(tmp_path: Path) -> None:
    folder = save(tmp_path / "ct", *(make(k, PatientID=f"patient {k % 2}") for k in range(4)))
    assert sorted(len(one.paths) for one in scan(folder).series) == [2, 2]


def test_last_slice_cut_off_is_named_in_the_findings(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    last = max(folder.iterdir(), key=lambda path: np.dot(NORMAL, pydicom.dcmread(path).ImagePositionPatient))
    last.write_bytes(last.read_bytes()[:-20])
    volume = read(folder)
    assert volume.array.shape == (1, 5, 6, 3)
    (finding,) = volume.findings
    assert finding.code == "damaged-file"
    assert last.name in finding.message


def test_noise_in_the_orientation_is_averaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 3e-5, (4, 6))
    slices = [make(k, ImageOrientationPatient=list(np.round(np.r_[ROW, COLUMN] + noise[k], 8))) for k in range(4)]
    volume = read(save(tmp_path / "ct", *slices))
    expected = ORIGIN + 4 * COLUMN_SPACING * ROW + 5 * ROW_SPACING * COLUMN + 3 * STEP * NORMAL
    np.testing.assert_allclose(volume.geometry.to_world((4, 5, 3)), expected * (-1, -1, 1), atol=2e-3)


def test_frame_of_a_series_can_only_be_0(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    assert read(folder, frame=0).array.shape == (1, 5, 6, 4)
    with pytest.raises(InputError, match="has no frame 1"):
        read(folder, frame=1)
