from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats import read, scan
from medseg.volume import Volume

# Each of the shared cases, and how many of its candidates are read; the others are refused. Never anything else.
CASES = {
    "r01_ct_axial_seg": 1, "r06_ct_tilt_siemens_notag": 0, "r08_ct_missing_slice_real": 0,
    "r10_mr_threeplane_localizer": 0, "r11_mr_sagittal_ge": 1, "r14_mr_codecs": 1, "r20_mr_mosaic_fmri": 0,
    "r24_mr_dwi_philips": 0, "r26_enh_mr_philips": 0, "r31_legacy_enhanced_ct_seg": 1, "r37_mono1_dx": 0,
    "r38_ct_rtstruct": 2, "s01_control": 1, "s02_drop_interior": 0, "s04_dup_exact": 1, "s06_shuffled_no_ext": 1,
    "s07_no_instance_number": 1, "s08_junk": 1, "s10_truncated_header": 0, "s11_two_series_flat": 2,
    "s14_pet_slope_per_slice": 1, "s15_mixed_signed": 1, "s17_double_oblique_aniso": 1, "s18_tilt20": 0,
    "s19_prone_reversed": 1, "s23_iop_noise": 1, "s26_one_without_ipp": 0, "s28_no_pixel_spacing": 0,
    "s30_overlay_high_bits": 1, "s33_4d_phases": 0, "s36_hostile_strings": 1, "s40_single_slice": 1,
    "s41_two_slices": 1, "s43_sr_pr_mixed": 1,
}  # fmt: skip


def assert_is_one_of(volume: Volume, truths: list[dict[str, Any]]) -> None:
    values = volume.array[0].astype(np.float32)
    digest = hashlib.sha256(values.tobytes(order="F")).hexdigest()  # of (K, J, I)
    truth = next((truth for truth in truths if truth["sha256_f32"] == digest), None)
    assert truth is not None, "voxels differ from every volume of the case"
    assert list(volume.geometry.shape) == truth["shape_ijk"]
    for x, y, z, value in truth["probes_lps_xyz_value"]:
        index = volume.geometry.to_voxel((-x, -y, z))
        np.testing.assert_allclose(index, np.rint(index), atol=0.01)
        assert values[tuple(np.rint(index).astype(int))] == np.float32(value)


@pytest.mark.parametrize("case", CASES)
def test_shared_case_comes_out_right_or_is_refused(case: str, shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / case
    truths = json.loads((folder / "truth.json").read_text())["volumes"]
    right = 0
    for candidate in scan(folder / "data").series:
        if candidate.readable:
            assert_is_one_of(read(candidate), truths)
            right += 1
        else:
            with pytest.raises(MedsegError, match=re.escape(str(folder))):
                read(candidate)
    assert right == CASES[case]


def test_no_shared_case_is_forgotten(shared_data: Path) -> None:
    assert set(CASES) == {path.name for path in (shared_data / "fixtures" / "dicom").iterdir() if path.is_dir()}


@pytest.mark.parametrize("codec", ["raw", "rle", "j2k", "jpegls", "jpeg"])
def test_every_codec_gives_the_same_voxels_or_is_refused_by_name(codec: str, shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / "r14_mr_codecs"
    truths = json.loads((folder / "truth.json").read_text())["volumes"]
    (candidate,) = scan(folder / "data" / codec).series
    if candidate.readable:
        assert_is_one_of(read(candidate), truths)
    else:
        assert codec in ("jpegls", "jpeg")
        with pytest.raises(InputError, match="for which no decoder is installed"):
            read(candidate)


def test_broken_slice_of_a_shared_case_is_named_by_the_refusal(shared_data: Path) -> None:
    with pytest.raises(GeometryError, match=r"IM0014\.dcm was left out"):
        read(shared_data / "fixtures" / "dicom" / "s10_truncated_header" / "data")


def test_damaged_pixels_of_a_compressed_slice_name_the_file(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "fixtures" / "dicom" / "r14_mr_codecs" / "data" / "rle"
    for path in source.iterdir():
        shutil.copy(path, tmp_path / path.name)
    victim = sorted(tmp_path.iterdir())[2]
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes()[:-9000])
    with pytest.raises(InputError, match=re.escape(victim.name) + ": its pixels cannot be decoded"):
        read(tmp_path)
