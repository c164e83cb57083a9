from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats import read, scan
from tests.nifti_files import AFFINE, RAMP, SHAPE, save


def quad(path: Path) -> Path:
    return save(path, datatype=1536)


def rgb(path: Path) -> Path:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(colours, AFFINE).to_filename(path)
    return path


def with_voxel(value: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        array = RAMP.astype(np.float32)
        array[2, 1, 1] = value
        return save(path, array)

    return make


def cut(keep: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        content = save(path).read_bytes()
        path.write_bytes(content[:keep])
        return path

    return make


def cut_gzip(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20))
    content = gzip.compress(save(path, noise).read_bytes())
    path.write_bytes(content[: len(content) // 2])
    return path


def flipped_gzip(path: Path) -> Path:
    content = bytearray(gzip.compress(save(path).read_bytes()))
    content[-6] ^= 0xFF  # in the checksum
    path.write_bytes(content)
    return path


def text(path: Path) -> Path:
    path.write_text("Dear colleague, please find attached the scan. " * 20)
    return path


def analyze(path: Path) -> Path:
    nib.AnalyzeImage(RAMP.astype(np.int16), AFFINE).to_filename(path.with_suffix(".img"))
    return path.with_suffix(".hdr")


def lone_header(path: Path) -> Path:
    save(path.with_suffix(".img"), kind=nib.Nifti1Pair)
    path.with_suffix(".img").unlink()
    return path.with_suffix(".hdr")


def lone_voxels(path: Path) -> Path:
    save(path.with_suffix(".img"), kind=nib.Nifti1Pair)
    path.with_suffix(".hdr").unlink()
    return path.with_suffix(".img")


def header(**fields: Any) -> Callable[[Path], Path]:
    return lambda path: save(path, **fields)


def no_sform(**fields: Any) -> Callable[[Path], Path]:
    return lambda path: save(path, sform_code=0, **fields)


BAD = {
    "text": (text, InputError, "not a NIfTI file"),
    "empty file": (lambda path: (path.touch(), path)[1], InputError, "not a NIfTI file"),
    "cut header": (cut(300), InputError, "cut short in the header"),
    "cut voxels": (cut(400), InputError, "cut short: 5 × 4 × 3 voxels need 472 bytes, the file has 400"),
    "cut gzip": (cut_gzip, InputError, "gzip data are damaged or cut short"),
    "wrong checksum": (flipped_gzip, InputError, "gzip data are damaged"),
    "huge sizes": (header(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), InputError, "the file has 472; copy"),
    "negative size": (header(dim=(3, 5, -4, 3, 1, 1, 1, 1)), InputError, "header is damaged, its size is 5 × -4 × 3"),
    "no size": (header(dim=(3, 5, 0, 3, 1, 1, 1, 1)), InputError, "empty image of 5 × 0 × 3 voxels"),
    "nine dimensions": (header(dim=(9, 5, 4, 3, 1, 1, 1, 1)), InputError, "claims 9 dimensions"),
    "five dimensions": (
        lambda path: save(path, np.zeros((5, 4, 3, 1, 3))),
        InputError,
        r"5-dimensional image \(5 × 4 × 3 × 1 × 3\)",
    ),
    "one dimension": (lambda path: save(path, np.arange(5)), InputError, "1-dimensional"),
    "RGB": (rgb, InputError, r"a colour \(RGB\) image"),
    "RGBA": (header(datatype=2304), InputError, r"a colour \(RGBA\) image"),
    "complex": (lambda path: save(path, RAMP.astype(np.complex64)), InputError, r"a complex \(complex64\) image"),
    "quad float": (quad, InputError, "a 128-bit float image"),
    "unknown type": (header(datatype=77), InputError, "data type 77 does not exist"),
    "offset in the header": (header(vox_offset=100), InputError, "voxels cannot begin at byte 100"),
    "offset beyond the file": (header(vox_offset=1e15), InputError, "cut short"),
    "offset not finite": (header(vox_offset=np.nan), InputError, "voxels cannot begin at byte nan"),
    "half a scaling": (header(scl_slope=2.0, scl_inter=np.inf), InputError, "scl_slope 2.0 goes with scl_inter inf"),
    "NaN voxel": (with_voxel(np.nan), InputError, "has NaN voxels"),
    "infinite voxel": (with_voxel(-np.inf), InputError, "has infinite voxels"),
    "all voxels the same": (lambda path: save(path, np.full(SHAPE, 7)), InputError, "every voxel is 7"),
    "Analyze": (analyze, InputError, "Analyze does not say which side is left"),
    "header without voxels": (lone_header, InputError, r"\.img file that is not beside it"),
    "voxels without header": (lone_voxels, InputError, r"no \.hdr beside it"),
    "zero spacing": (no_sform(pixdim=(1, 0, 1, 1, 0, 0, 0, 0)), GeometryError, "spacing 0 × 1 × 1 mm"),
    "infinite spacing": (no_sform(pixdim=(1, np.inf, 1, 1, 0, 0, 0, 0)), GeometryError, "correct the header"),
    "NaN spacing": (no_sform(pixdim=(1, np.nan, 1, 1, 0, 0, 0, 0)), GeometryError, "not a finite 4x4 matrix"),
    "zero spacing and no form": (
        no_sform(qform_code=0, pixdim=(1, 0, 1, 1, 0, 0, 0, 0)),
        GeometryError,
        "spacing 0 × 1 × 1 mm",
    ),
    "singular sform": (header(srow_x=(0, 0, 0, 0)), GeometryError, "singular"),
    "NaN sform": (header(srow_x=(np.nan, 0, 0, 0)), GeometryError, "not a finite 4x4 matrix"),
    "damaged qform": (no_sform(quatern_b=3.0, quatern_c=3.0), GeometryError, "the qform is damaged"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_file(case: str, tmp_path: Path) -> None:
    make, expected, message = BAD[case]
    path = make(tmp_path / "case.nii")
    with pytest.raises(MedsegError, match=message) as caught:
        read(path)
    assert type(caught.value) is expected
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what was found; what to do
    study = scan(tmp_path)
    if case not in NOT_SEEN_WITHOUT_VOXELS:
        assert study.readable == ()
        assert study.skipped or study.series[0].findings


NOT_SEEN_WITHOUT_VOXELS = {"cut gzip", "wrong checksum", "NaN voxel", "infinite voxel", "all voxels the same"}


def test_gzip_bomb_in_the_header_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", dim=(3, 32767, 32767, 32767, 1, 1, 1, 1))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"the file has \d+ \(gzip\)"):
        read(path)


def test_damaged_bytes_are_refused_and_never_crash(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii")
    whole = path.read_bytes()
    outcomes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        content = bytearray(whole)
        for at in rng.integers(0, 352, 1 + seed % 12):
            content[at] = rng.integers(256)
        path.write_bytes(gzip.compress(content) if seed % 2 else content)
        outcomes.add(outcome(path))
    assert len(outcomes) > 10
    assert all(text.isprintable() for text in outcomes)


def outcome(path: Path) -> str:
    try:
        read(path)
    except MedsegError as error:
        return str(error)
    return "read"
