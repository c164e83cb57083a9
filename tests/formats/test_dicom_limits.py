"""Label files that may be hostile: within limits of memory and time, and the same labels as without."""

import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless

from medseg.errors import GeometryError, InputError
from medseg.formats import dicom_limits, read_segmentation, scan
from tests.label_files import grid, phantom, scan_files, written

KINDS = ["dicom-seg", "dicom-rtstruct"]


@pytest.mark.parametrize("kind", KINDS)
def test_large_label_file_is_read_by_a_limited_process_with_the_same_result(tmp_path, monkeypatch, kind):
    paths = scan_files(tmp_path / "ct")
    path, _ = written(tmp_path, paths, phantom(grid()), kind)
    plainly = read_segmentation(path, onto=grid(), source=paths)
    monkeypatch.setattr(dicom_limits, "_SMALL_BYTES", 0)
    limited = read_segmentation(path, onto=grid(), source=paths)
    np.testing.assert_array_equal(limited.array, plainly.array)
    assert (limited.labels, limited.findings) == (plainly.labels, plainly.findings)


def test_error_of_a_limited_process_is_told_as_it_is(tmp_path, monkeypatch):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-rtstruct")
    monkeypatch.setattr(dicom_limits, "_SMALL_BYTES", 0)
    with pytest.raises(GeometryError, match=r"plan\.dcm: .*not parallel to the planes"):
        read_segmentation(path, onto=type(grid())((40, 40, 40), np.eye(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_label_file_that_takes_too_long_is_refused_by_name(tmp_path, monkeypatch, kind):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), kind)
    monkeypatch.setattr(dicom_limits, "_SMALL_BYTES", 0)
    monkeypatch.setattr(dicom_limits, "MOST_SECONDS", 0)
    with pytest.raises(InputError, match=rf"{path.name}: takes more memory or time"):
        read_segmentation(path, onto=grid())
    assert [reason for _, reason in scan(path).skipped]


def test_seg_that_inflates_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()), "dicom-seg-binary")
    seg = pydicom.dcmread(path)
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    seg.save_as(path)
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")  # where group 2 ends, by its own length
    data = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    bomb = deflate.compress(data) + b"".join(deflate.compress(bytes(2**26)) for _ in range(16)) + deflate.flush()
    path.write_bytes(content[:start] + bomb)
    monkeypatch.setattr(dicom_limits, "MOST_BYTES", 2**30)
    with pytest.raises(InputError, match=r"seg\.dcm: takes more memory or time"):
        read_segmentation(path, onto=grid())


def test_compressed_seg_is_decoded_by_another_process_also_where_it_is_small(tmp_path, monkeypatch):
    path, _ = written(tmp_path, scan_files(tmp_path / "ct"), phantom(grid()))
    seg = pydicom.dcmread(path)
    seg.decompress()
    assert seg.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    seg.compress(JPEGLSLossless)
    seg.save_as(path)
    np.testing.assert_array_equal(read_segmentation(path, onto=grid()).array, phantom(grid()).array)
    monkeypatch.setattr(dicom_limits, "MOST_SECONDS", 0)
    with pytest.raises(InputError, match=r"seg\.dcm: takes more memory or time"):
        read_segmentation(path, onto=grid())
