from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats import read, scan
from tests.dicom_files import NORMAL, ORIGIN, PATIENT, STEP, VOXELS, make, save, series


def position(offset: np.ndarray) -> list[float]:
    return [round(float(x), 6) for x in ORIGIN + offset]


def changed(k: int, **changes: Any) -> Callable[[Path], Path]:
    """The series with these changes in slice k alone."""
    return lambda folder: save(folder, *(make(n, **(changes if n == k else {})) for n in range(4)))


def all_changed(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: series(folder, **changes)


def positions(*offsets: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: save(folder, *(make(k, ImagePositionPatient=position(o)) for k, o in enumerate(offsets)))


BAD: dict[str, tuple[Callable[[Path], Path], type[MedsegError], str]] = {
    "two at one place": (positions(*(n * STEP * NORMAL for n in (0, 1, 1, 2))), GeometryError, "at one place"),
    "all at one place": (positions(*(0 * NORMAL for n in range(4))), GeometryError, "at one place"),
    "two time points": (
        positions(*(n * STEP * NORMAL for n in (0, 0, 1, 1))),
        GeometryError,
        "several slices at one place",
    ),
    "no position": (all_changed(ImagePositionPatient=None), GeometryError, "no usable ImagePositionPatient"),
    "no orientation": (all_changed(ImageOrientationPatient=None), GeometryError, "no usable ImageOrientationPatient"),
    "slices far apart": (
        positions(*(n * STEP * NORMAL for n in (0, 1, 2, 30))),
        GeometryError,
        "4 would have to become .* get the missing slices",
    ),
    "no pixel spacing": (all_changed(PixelSpacing=None), GeometryError, "no usable PixelSpacing"),
    "zero pixel spacing": (all_changed(PixelSpacing=[0, 1]), GeometryError, r"PixelSpacing is \(0.0, 1.0\)"),
    "orientation not of length 1": (
        all_changed(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]),
        GeometryError,
        "not two perpendicular directions",
    ),
    "another orientation": (
        changed(1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        InputError,
        "2 scans found, give one of them",
    ),
    "another pixel spacing": (changed(1, PixelSpacing=[1.5, 0.6]), InputError, "2 scans found, give one of them"),
    "another matrix": (
        changed(1, Rows=5, PixelData=VOXELS[0, :5].tobytes()),
        InputError,
        "2 scans found, give one of them",
    ),
    "another kernel": (changed(1, ConvolutionKernel="B70f"), InputError, "2 scans found, give one of them"),
    "another echo": (changed(1, EchoTime=80), InputError, "2 scans found, give one of them"),
    "inverted slice": (
        changed(1, PhotometricInterpretation="MONOCHROME1"),
        InputError,
        "2 scans found, give one of them",
    ),
    "single slice without thickness": (
        lambda folder: save(folder, make(0, SliceThickness=None)),
        GeometryError,
        "a single slice without SliceThickness",
    ),
    "projection": (all_changed(Modality="DX"), GeometryError, r"a projection image \(DX\) has no place"),
    "multi-frame": (
        lambda folder: save(folder, make(0, NumberOfFrames=4, PixelData=VOXELS.tobytes())),
        InputError,
        r"a multi-frame image \(4 frames\)",
    ),
    "localizer of CT": (all_changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), GeometryError, "a localizer"),
    "bits beyond the word": (all_changed(HighBit=16), InputError, "12 bits up to bit 16 of 16"),
    "mosaic": (all_changed(ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), InputError, "a mosaic"),
    "colour": (
        all_changed(SamplesPerPixel=3, PhotometricInterpretation="RGB", PixelData=bytes(6 * 6 * 5)),
        InputError,
        r"a colour image \(RGB\)",
    ),
    "zero slope": (all_changed(RescaleSlope=0), InputError, "no usable number"),
    "lookup table": (all_changed(ModalityLUTSequence=[Dataset()]), InputError, "lookup table"),
    "floats": (
        all_changed(PixelData=None, FloatPixelData=VOXELS[0].astype("f4").tobytes(), BitsAllocated=32),
        InputError,
        "floating-point numbers",
    ),
    "same UID, other pixels": (
        lambda folder: save(folder, *(make(k) for k in range(4)), make(1, np.roll(VOXELS, 1))),
        InputError,
        "the same instance UID as .* and other content",
    ),
    "same UID, other place": (
        changed(1, SOPInstanceUID=UID("1.2.3.4.0")),
        InputError,
        "the same instance UID as .* and other content",
    ),
    "all voxels the same": (
        lambda folder: save(folder, *(make(k, np.full_like(VOXELS, 9)) for k in range(4))),
        InputError,
        "every voxel is -1015",
    ),
    "no pixels": (all_changed(PixelData=None), InputError, "ends in the middle of its pixels"),
    "report": (all_changed(Modality="SR"), InputError, "a DICOM SR object, not a scan"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_forms_no_volume_is_refused_in_one_line_without_patient_data(case: str, tmp_path: Path) -> None:
    prepare, expected, message = BAD[case]
    folder = prepare(tmp_path / "study")
    with pytest.raises(MedsegError, match=message) as caught:
        read(folder)
    assert type(caught.value) is expected
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    study = scan(folder)
    for text in (str(caught.value), *(f.message for s in study.series for f in s.findings), repr(study)):
        assert PATIENT not in text


def test_encoding_without_a_decoder_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.formats.dicom_slice.decodable", lambda syntax: False)
    with pytest.raises(InputError, match="compressed as Explicit VR Little Endian, for which no decoder"):
        read(series(tmp_path / "ct"))


def test_damaged_bytes_are_refused_and_never_crash(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = save(tmp_path / "ct", make(0))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    outcomes = set()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        content = bytearray(whole)
        for at in rng.integers(128, len(content), 1 + seed % 12):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        outcomes.add(outcome(folder))
    assert len(outcomes) > 5
    assert all(text.isprintable() for text in outcomes)
    assert not recwarn  # pydicom's warnings quote values


def outcome(folder: Path) -> str:
    try:
        read(folder)
    except MedsegError as error:
        return str(error)
    return "read"
