from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.errors import InputError, MedsegError
from medseg.formats import read, read_segmentation, scan
from tests.nifti_files import AFFINE, RAMP, SHAPE, edit, save


def codes(found: Any) -> list[str]:
    return [finding.code for finding in found.findings]


INTEGERS_AND_FLOATS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", INTEGERS_AND_FLOATS)
def test_every_type_and_byte_order_keeps_values_type_and_grid(kind: Any, order: str, code: str, tmp_path: Path) -> None:
    image = kind(RAMP.astype(code), AFFINE, kind.header_class(endianness=order), dtype=code)
    image.to_filename(tmp_path / "scan.nii.gz")
    assert nib.load(tmp_path / "scan.nii.gz").header.endianness == order
    volume = read(tmp_path / "scan.nii.gz")
    assert volume.array.dtype == np.dtype(code)
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, RAMP[np.newaxis])
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, rtol=1e-6)
    assert volume.findings == ()


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.img", "scan.img.gz"])
def test_single_files_and_pairs_give_the_same_volume(name: str, tmp_path: Path) -> None:
    kind = nib.Nifti1Pair if ".img" in name else nib.Nifti1Image
    volume = read(save(tmp_path / name, kind=kind))
    np.testing.assert_array_equal(volume.array[0], RAMP)
    (series,) = scan(tmp_path).series
    assert set(series.paths) == set(tmp_path.iterdir())
    assert series.shape == SHAPE
    np.testing.assert_allclose(series.spacing_mm, np.linalg.norm(AFFINE[:3, :3], axis=0), rtol=1e-6)


def test_either_file_of_a_pair_may_be_named(tmp_path: Path) -> None:
    save(tmp_path / "scan.img", kind=nib.Nifti1Pair)
    np.testing.assert_array_equal(read(tmp_path / "scan.hdr").array, read(tmp_path / "scan.img").array)


def test_content_counts_and_not_the_ending_whether_it_is_compressed(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.nii").read_bytes()
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "flat.nii.gz").write_bytes(plain)
    for name in ("zipped.nii", "flat.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name).array[0], RAMP)


def test_scaled_integers_become_float32_values(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", scl_slope=0.5, scl_inter=-1024.0)
    volume = read(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], RAMP * 0.5 - 1024)
    np.testing.assert_array_equal(volume.array[0], nib.load(path).get_fdata())


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.0, 5.0), (np.nan, np.nan)])
def test_scaling_that_changes_nothing_keeps_integers(slope: float, intercept: float, tmp_path: Path) -> None:
    volume = read(save(tmp_path / "scan.nii", scl_slope=slope, scl_inter=intercept))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[0], RAMP)


def test_2d_image_is_a_volume_one_voxel_thick(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "scan.nii", RAMP[:, :, 0]))
    assert volume.array.shape == (1, 5, 4, 1)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, rtol=1e-6)


def test_2d_image_without_thickness_gets_1_mm_and_a_finding(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", RAMP[:, :, 0], pixdim=(1, 2, 1.5, 0, 0, 0, 0, 0), qform_code=0)
    edit(path, lambda h: [h[f"srow_{axis}"].__setitem__(2, 0) for axis in "xyz"])
    volume = read(path)
    assert volume.geometry.spacing_mm[2] == pytest.approx(1)
    assert codes(volume) == ["no-slice-thickness"]


def test_4d_file_of_one_frame_is_3d(tmp_path: Path) -> None:
    assert read(save(tmp_path / "scan.nii", RAMP[..., np.newaxis])).array.shape == (1, *SHAPE)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_4d_file_is_refused_with_the_remedy_and_read_by_frame(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, np.stack((RAMP, RAMP + 100, RAMP + 200), axis=-1))
    with pytest.raises(InputError, match=r"3 volumes of 5 × 4 × 3 voxels; choose one with --frame N, N from 0 to 2"):
        read(path)
    np.testing.assert_array_equal(read(path, frame=1).array[0], RAMP + 100)
    np.testing.assert_array_equal(read(path, frame=2).array[0], RAMP + 200)
    with pytest.raises(InputError, match="no frame 3"):
        read(path, frame=3)
    (series,) = scan(path).series
    assert (series.frames, codes(series)) == (3, ["frames"])


def test_frame_of_a_3d_file_can_only_be_0(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii")
    np.testing.assert_array_equal(read(path, frame=0).array[0], RAMP)
    with pytest.raises(InputError, match="leave --frame out"):
        read(path, frame=1)


def test_sform_wins_over_a_different_qform_with_a_finding(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "scan.nii", qoffset_x=77.0))
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, rtol=1e-6)
    assert codes(volume) == ["qform-sform-differ"]
    assert codes(scan(tmp_path).series[0]) == ["qform-sform-differ"]


def test_qform_alone_and_sform_alone_are_enough(tmp_path: Path) -> None:
    for code in ("qform_code", "sform_code"):
        volume = read(save(tmp_path / "scan.nii", **{code: 0}))
        expected = nib.load(tmp_path / "scan.nii").affine
        np.testing.assert_allclose(volume.geometry.affine, expected, rtol=1e-5, atol=1e-5)
        assert volume.findings == ()


def test_neither_form_gives_nibabels_fallback_and_a_finding(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "scan.nii", qform_code=0, sform_code=0))
    np.testing.assert_allclose(volume.geometry.affine, nib.load(tmp_path / "scan.nii").affine, rtol=1e-5)
    assert codes(volume) == ["no-orientation"]


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (3, 0.001)])
def test_metres_and_microns_become_mm_with_a_finding(unit: int, factor: float, tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", xyzt_units=unit)
    volume = read(path)
    np.testing.assert_allclose(volume.geometry.affine[:3], AFFINE[:3] * factor, rtol=1e-6)
    assert codes(volume) == ["units"]


def test_sheared_sform_is_honoured(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.0
    image = nib.Nifti1Image(RAMP.astype(np.int16), sheared)
    image.to_filename(tmp_path / "scan.nii")
    np.testing.assert_allclose(read(tmp_path / "scan.nii").geometry.affine, sheared, rtol=1e-6)


def test_float_label_file_of_whole_numbers_is_labels(tmp_path: Path) -> None:
    segmentation = read_segmentation(save(tmp_path / "seg.nii", (RAMP % 3).astype(np.float64)))
    assert segmentation.array.dtype == np.uint8
    np.testing.assert_array_equal(segmentation.array, RAMP % 3)
    assert segmentation.labels is None


@pytest.mark.parametrize(
    ("array", "message"),
    [(RAMP / 4, "not whole numbers"), (RAMP.astype(float) * np.nan, "not whole numbers"), (RAMP - 2, "label -2")],
)
def test_values_that_are_no_labels_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_segmentation(save(tmp_path / "seg.nii", array))


def test_label_names_of_totalsegmentator_are_read(shared_data: Path) -> None:
    path = shared_data / "fixtures" / "totalsegmentator_examples" / "labels" / "ct_small.nii.gz"
    labels = read_segmentation(path).labels
    assert labels is not None
    assert (labels.names[1], labels.names[5], len(labels)) == ("spleen", "liver", 117)


@pytest.mark.parametrize("content", [b'{"medseg_labels": [{"index": 0}]}', b'{"medseg_labels": ', b'["medseg_labels"]'])
def test_damaged_label_names_become_a_finding(content: bytes, tmp_path: Path) -> None:
    image = nib.Nifti1Image((RAMP % 3).astype(np.uint8), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, content))
    image.to_filename(tmp_path / "seg.nii")
    segmentation = read_segmentation(tmp_path / "seg.nii")
    assert segmentation.labels is None
    assert codes(segmentation) == ["label-names"]


def test_extension_of_impossible_size_is_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(RAMP.astype(np.int16), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"note"))
    image.to_filename(tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    content[352:356] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "scan.nii").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "scan.nii").array[0], RAMP)


REAL = ["hippocampus/imagesTr/hippocampus_001.nii.gz", "sct/images/t2_cord.nii.gz", "sct/images/mt1_cord_crop.nii.gz"]


@pytest.mark.parametrize("name", REAL)
def test_real_scans_are_what_nibabel_and_simpleitk_read(name: str, data: Path) -> None:
    volume = read(data / name)
    image, itk = nib.load(data / name), SimpleITK.ReadImage(str(data / name))
    np.testing.assert_array_equal(volume.array[0], np.asarray(image.dataobj))
    np.testing.assert_array_equal(volume.array[0], SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=1e-6)


def test_real_oddities_are_what_nibabel_reads_or_refused(shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "nifti" / "real_oddities" / "data"
    refused = {}
    for path in sorted(folder.iterdir()):
        try:
            volume = read(path)
        except MedsegError as error:
            refused[path.name] = str(error)
            continue
        image = nib.load(path)
        np.testing.assert_array_equal(volume.array[0], np.asarray(image.dataobj).reshape(volume.geometry.shape))
        np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=1e-5)
    four_d = {"example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"}
    assert set(refused) == {"5D_small.nii", "not-nifti.nii", *four_d}
    assert all("--frame" in refused[name] for name in four_d)
