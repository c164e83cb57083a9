from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import InputError
from medseg.formats import read, read_segmentation, scan

HIPPOCAMPUS = "hippocampus/imagesTr/hippocampus_001.nii.gz"


def test_folder_is_searched_with_all_below_and_every_other_file_has_a_reason(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    shutil.copy(data / HIPPOCAMPUS, tmp_path / "a" / "b" / "scan.nii.gz")
    shutil.copytree(data / "ct_dicom", tmp_path / "ct")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "none").touch()
    (tmp_path / ".part.seg.nii.gz").write_bytes(b"half")
    study = scan(tmp_path)
    assert [(s.format, len(s.paths), s.modality) for s in study.series] == [("nifti", 1, None), ("dicom", 3, "CT")]
    reasons = {path.name: reason for path, reason in study.skipped}
    assert reasons == {
        ".part.seg.nii.gz": "a hidden file",
        "LICENSE": "not an image in a format that is known",
        "none": "an empty file",
        "notes.txt": "not an image in a format that is known",
    }


def test_scan_reads_no_voxels(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError("voxels were read")

    monkeypatch.setattr("medseg.formats.dicom_pixels.Pixels.read", forbidden)
    monkeypatch.setattr("medseg.formats.nifti._stored", forbidden)
    assert len(scan(data).readable) > 4
    with pytest.raises(AssertionError, match="voxels were read"):
        read(data / "ct_dicom")
    with pytest.raises(AssertionError, match="voxels were read"):
        read(data / HIPPOCAMPUS)


def test_path_with_several_scans_is_refused_with_their_list(data: Path) -> None:
    folder = data / "hippocampus" / "imagesTr"
    first = r"2 scans found, give one of them: hippocampus_001.nii.gz \(35 × 51 × 35\); "
    with pytest.raises(InputError, match=first) as caught:
        read(folder)
    assert "hippocampus_015.nii.gz" in str(caught.value)
    assert "\n" not in str(caught.value)
    for series in scan(folder).series:
        assert read(series).geometry.shape == series.shape


def test_candidate_that_cannot_be_read_stands_in_the_findings_of_the_one_that_can(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / HIPPOCAMPUS, tmp_path / "scan.nii.gz")
    nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.complex64), np.eye(4)).to_filename(tmp_path / "field.nii")
    (finding,) = read(tmp_path).findings
    assert finding.code == "others-not-read"
    assert "field.nii" in finding.message


def test_missing_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"no/such/scan\.nii: no such file or folder; check the path\.") as caught:
        read("no/such/scan.nii")
    assert caught.value.exit_code == 3


def test_dangling_link_and_device_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    for name in ("link.nii", "pipe.nii"):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            read(tmp_path / name)
    assert {reason for _, reason in scan(tmp_path).skipped} == {"not a regular file"}


def test_folder_without_files_and_folder_without_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder holds no files"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"none of 1 file\(s\) is a scan .*notes\.txt: not an image"):
        read(tmp_path)


def test_folder_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    tmp_path.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:  # for whom permissions do not hold
            os.seteuid(65534)
        with pytest.raises(InputError, match=r"cannot be opened \(Permission denied\)|no such file or folder"):
            read(closed)
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)


def test_name_cannot_break_the_line_of_a_message(tmp_path: Path) -> None:
    path = tmp_path / "scan\n\x1b[31mforged.nii"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"scan\?\?\[31mforged\.nii") as caught:
        read(path)
    assert str(caught.value).isprintable()


def test_intensities_of_a_dicom_series_are_no_labels(data: Path) -> None:
    with pytest.raises(InputError, match="dicom holds intensities, not labels"):
        read_segmentation(data / "ct_dicom")
