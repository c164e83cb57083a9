from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.formats import read, scan
from medseg.volume import Volume

# Each of the shared cases, and how many volumes are read from it; the rest is refused. Never anything else.
CASES = {
    "r01_ct_axial_seg": 1, "r06_ct_tilt_siemens_notag": 1, "r08_ct_missing_slice_real": 1,
    "r10_mr_threeplane_localizer": 2, "r11_mr_sagittal_ge": 1, "r14_mr_codecs": 2, "r20_mr_mosaic_fmri": 6,
    "r24_mr_dwi_philips": 4, "r26_enh_mr_philips": 1, "r31_legacy_enhanced_ct_seg": 2, "r37_mono1_dx": 0,
    "r38_ct_rtstruct": 2, "s01_control": 1, "s02_drop_interior": 1, "s04_dup_exact": 1, "s06_shuffled_no_ext": 1,
    "s07_no_instance_number": 1, "s08_junk": 1, "s10_truncated_header": 1, "s11_two_series_flat": 2,
    "s14_pet_slope_per_slice": 1, "s15_mixed_signed": 1, "s17_double_oblique_aniso": 1, "s18_tilt20": 1,
    "s19_prone_reversed": 1, "s23_iop_noise": 1, "s26_one_without_ipp": 1, "s28_no_pixel_spacing": 0,
    "s30_overlay_high_bits": 1, "s33_4d_phases": 5, "s36_hostile_strings": 1, "s40_single_slice": 1,
    "s41_two_slices": 1, "s43_sr_pr_mixed": 1,
}  # fmt: skip

# What must be said about a volume that is not read as it was stored, plane for plane.
FINDINGS = {
    "r06_ct_tilt_siemens_notag": "tilt", "r08_ct_missing_slice_real": "missing-slices",
    "r10_mr_threeplane_localizer": "series-separated", "r14_mr_codecs": "duplicates",
    "r20_mr_mosaic_fmri": "frames", "r24_mr_dwi_philips": "frames", "s02_drop_interior": "missing-slices",
    "s04_dup_exact": "duplicates", "s10_truncated_header": "damaged-file", "s18_tilt20": "tilt",
    "s26_one_without_ipp": "slice-left-out", "s33_4d_phases": "frames", "s40_single_slice": "single-slice",
}  # fmt: skip


def assert_is_one_of(volume: Volume, truths: list[dict[str, Any]]) -> None:
    on_grid = [volume.geometry.to_voxel(plane.geometry.affine[:3, 3])[2] for plane in volume.sources]
    values = volume.array[0][:, :, np.rint(on_grid).astype(int)].astype(np.float32)  # without what was interpolated
    digest = hashlib.sha256(values.tobytes(order="F")).hexdigest()  # of (K, J, I)
    truth = next((truth for truth in truths if truth["sha256_f32"] == digest), None)
    assert truth is not None, "voxels differ from every volume of the case"
    assert list(values.shape) == truth["shape_ijk"]
    gap_mm = truth["gap_min"]
    if gap_mm:
        normal = np.cross(*volume.geometry.affine[:3, :2].T)
        step = np.dot(volume.geometry.affine[:3, 2], normal / np.linalg.norm(normal))
        assert abs(step) == pytest.approx(gap_mm, rel=1e-3)
    for x, y, z, value in truth["probes_lps_xyz_value"]:
        index = volume.geometry.to_voxel((-x, -y, z))
        np.testing.assert_allclose(index, np.rint(index), atol=0.01)
        assert float(volume.array[0][tuple(np.rint(index).astype(int))]) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_shared_case_comes_out_right_or_is_refused(case: str, shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / case
    truths = json.loads((folder / "truth.json").read_text())["volumes"]
    right = 0
    for candidate in (one for one in scan(folder / "data").series if one.format == "dicom"):
        if candidate.readable:
            for frame in range(candidate.frames):
                assert_is_one_of(read(candidate, frame=frame), truths)
                right += 1
        else:
            with pytest.raises(MedsegError, match=re.escape(str(folder))):
                read(candidate)
    assert right == CASES[case]


def test_no_shared_case_is_forgotten(shared_data: Path) -> None:
    assert set(CASES) == {path.name for path in (shared_data / "fixtures" / "dicom").iterdir() if path.is_dir()}


@pytest.mark.parametrize("case", CASES)
def test_what_was_done_to_a_shared_case_is_told(case: str, shared_data: Path) -> None:
    study = scan(shared_data / "fixtures" / "dicom" / case / "data")
    codes = {finding.code for series in study.readable if series.format == "dicom" for finding in read(series).findings}
    assert (FINDINGS[case] in codes) if case in FINDINGS else not codes


@pytest.mark.parametrize("codec", ["raw", "rle", "j2k", "jpegls", "jpeg"])
def test_every_codec_gives_the_same_voxels(codec: str, shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / "r14_mr_codecs"
    truths = json.loads((folder / "truth.json").read_text())["volumes"]
    assert_is_one_of(read(folder / "data" / codec), truths)


def test_broken_slice_of_a_shared_case_is_named(shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / "s10_truncated_header" / "data"
    messages = {finding.code: finding.message for finding in read(folder).findings}
    assert "IM0014.dcm was left out" in messages["damaged-file"]
    assert "10 mm after IM0013.dcm" in messages["missing-slices"]


def test_compressed_slice_whose_pixels_are_damaged_is_named_and_treated_as_missing(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "fixtures" / "dicom" / "r14_mr_codecs" / "data" / "rle"
    for path in source.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    whole = read(tmp_path)
    victim = whole.sources[1].path
    victim.write_bytes(victim.read_bytes()[:-9000])
    volume = read(tmp_path)
    assert [finding.code for finding in volume.findings] == ["damaged-file", "missing-slices"]
    assert victim.name in volume.findings[0].message
    assert volume.geometry.matches(whole.geometry)
    for k in (0, 2, 3):
        np.testing.assert_array_equal(volume.array[..., k], whole.array[..., k])
