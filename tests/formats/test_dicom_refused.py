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
from tests.dicom_files import COLUMN, NORMAL, ORIGIN, PATIENT, ROW, STEP, VOXELS, make, save, series


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
    "gap": (positions(*(n * STEP * NORMAL for n in (0, 1, 3, 4))), GeometryError, "8 mm after .* where 4 mm is usual"),
    "jitter": (positions(*(n * STEP * NORMAL for n in (0, 1.1, 2, 3))), GeometryError, "unevenly spaced"),
    "sideways": (
        positions(*(n * STEP * NORMAL + (ROW if n == 1 else 0) for n in range(4))),
        GeometryError,
        "unevenly spaced",
    ),
    "tilt": (
        positions(*(n * (STEP * NORMAL + np.tan(np.radians(20)) * STEP * COLUMN) for n in range(4))),
        GeometryError,
        "sheared by 20.0°",
    ),
    "two at one place": (positions(*(n * STEP * NORMAL for n in (0, 1, 1, 2))), GeometryError, "at one place"),
    "all at one place": (positions(*(0 * NORMAL for n in range(4))), GeometryError, "at one place"),
    "two time points": (
        positions(*(n * STEP * NORMAL for n in (0, 0, 1, 1))),
        GeometryError,
        "several slices at one place",
    ),
    "no position": (changed(2, ImagePositionPatient=None), GeometryError, "no usable ImagePositionPatient"),
    "no orientation": (changed(2, ImageOrientationPatient=None), GeometryError, "no usable ImageOrientationPatient"),
    "no pixel spacing": (all_changed(PixelSpacing=None), GeometryError, "no usable PixelSpacing"),
    "zero pixel spacing": (all_changed(PixelSpacing=[0, 1]), GeometryError, r"PixelSpacing is \(0.0, 1.0\)"),
    "orientation not of length 1": (
        all_changed(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]),
        GeometryError,
        "not two perpendicular directions",
    ),
    "another orientation": (
        changed(1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        GeometryError,
        "several orientations",
    ),
    "another pixel spacing": (changed(1, PixelSpacing=[1.5, 0.6]), GeometryError, "several pixel spacings"),
    "another matrix": (
        changed(1, Rows=5, PixelData=VOXELS[0, :5].tobytes()),
        GeometryError,
        "several matrix sizes",
    ),
    "another kernel": (changed(1, ConvolutionKernel="B70f"), GeometryError, "several kinds"),
    "another echo": (changed(1, EchoTime=80), GeometryError, "several kinds"),
    "inverted slice": (changed(1, PhotometricInterpretation="MONOCHROME1"), GeometryError, "several kinds"),
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
    "mosaic": (all_changed(ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), InputError, "a mosaic"),
    "colour": (
        all_changed(SamplesPerPixel=3, PhotometricInterpretation="RGB", PixelData=bytes(6 * 6 * 5)),
        InputError,
        r"a colour image \(RGB\)",
    ),
    "high bit": (all_changed(HighBit=15), InputError, "12 bits up to bit 15 of 16"),
    "zero slope": (all_changed(RescaleSlope=0), InputError, "no usable number"),
    "lookup table": (all_changed(ModalityLUTSequence=[Dataset()]), InputError, "lookup table"),
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
    monkeypatch.setattr("medseg.formats.dicom_slice._decodable", lambda syntax: False)
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
