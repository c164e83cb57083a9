from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from medseg.errors import InputError
from medseg.formats import read, scan
from medseg.inputs import find_inputs
from tests.dicom_files import VOXELS, series

EXPECTED = VOXELS.transpose(2, 1, 0).astype(int) - 1024


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"study/{file.name}")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archive_is_read_as_the_folder_that_it_holds(kind: str, tmp_path: Path) -> None:
    folder, path = series(tmp_path / "ct"), tmp_path / f"study.{kind}"
    if kind == "zip":
        zipped(path, folder)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:
            archive.add(folder, "study")
    np.testing.assert_array_equal(read(path).array[0], EXPECTED)
    (found,) = find_inputs([str(path)])
    assert (found.name, found.beside) == ("study", tmp_path)
    assert not [file for file in tmp_path.iterdir() if file not in (folder, path)]


def test_nothing_leaves_the_folder_and_what_is_unsafe_has_a_reason(tmp_path: Path) -> None:
    path = zipped(tmp_path / "study.zip", series(tmp_path / "ct"))
    link = zipfile.ZipInfo("study/link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../escaped.txt", "/absolute.txt", "study/inner.zip", "a\\..\\..\\b.txt"):
            archive.writestr(name, "content")
        archive.writestr(link, "/etc/passwd")
    reasons = {file.name: reason for file, reason in scan(path).skipped}
    assert reasons["escaped.txt"] == reasons["absolute.txt"] == "leads out of the archive"
    assert reasons["inner.zip"] == "an archive in an archive; unpack it"
    assert reasons["link"] == "a link or a device in an archive"
    assert not (tmp_path / "escaped.txt").exists()
    np.testing.assert_array_equal(read(path).array[0], EXPECTED)


def test_links_and_devices_of_a_tar_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "study.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(series(tmp_path / "ct"), "study")
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    reasons = {file.name: reason for file, reason in scan(path).skipped}
    assert set(reasons) == {"link", "hard", "device"}
    assert set(reasons.values()) == {"a link or a device in an archive"}


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.formats.archives._FREE_BYTES", 2**20)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(8 * 2**20))
    with pytest.raises(InputError, match="unpacks to more than an archive of its size may"):
        read(bomb)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("zeros.dcm")
        member.size = 8 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InputError, match="unpacks to more than an archive of its size may"):
        read(path)
    monkeypatch.setattr("medseg.formats.archives.MOST_MEMBERS", 2)
    with pytest.raises(InputError, match="holds more than 2 files"):
        read(zipped(tmp_path / "many.zip", series(tmp_path / "ct")))


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "study.zip", series(tmp_path / "ct"))
    content = bytearray(path.read_bytes())
    content[200:400] = os.urandom(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match="the archive is damaged"):
        read(path)


def test_dicomdir_names_its_files_and_no_others(tmp_path: Path) -> None:
    folder = series(tmp_path / "IMAGES")
    names = [["images", file.name] for file in folder.iterdir()] + [["..", "secret"], ["IMAGES", "gone"]]
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MediaStorageDirectoryStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    index = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    index.DirectoryRecordSequence = records
    index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "unlisted.txt").write_text("x")
    study = scan(tmp_path / "DICOMDIR")
    assert sorted(reason for _, reason in study.skipped) == [
        "listed in the DICOMDIR, and not there",
        "the DICOMDIR lists a file outside its folder",
    ]
    np.testing.assert_array_equal(read(tmp_path / "DICOMDIR").array[0], EXPECTED)


def test_glob_gives_one_series_and_not_one_for_each_file(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    np.testing.assert_array_equal(read(f"{folder}/*.dcm").array[0], EXPECTED)
    (found,) = find_inputs([f"{folder}/*.dcm"])
    assert len(found.paths) == 4
