"""DICOM series to segment, as real ones are, and labels on them whose extent is known."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, EnhancedMRImageStorage

from medseg.errors import MedsegError
from medseg.formats import Algorithm, read_segmentation, write_onto_source
from medseg.geometry import Geometry
from medseg.labels import Code, Label, LabelSet
from medseg.study import Finding
from medseg.volume import Segmentation
from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, PATIENT, ROW, ROW_SPACING, STEP, make, save

ROWS, COLUMNS, SLICES = 24, 20, 7
MODEL = Algorithm("abdomen", "2.1.0")
both_types = pytest.mark.parametrize("output_type", ["dicom-seg", "dicom-seg-binary"])
LIVER = Code(scheme="SCT", value="10200004", meaning="Liver")
TUMOUR = Code(scheme="SCT", value="108369006", meaning="Neoplasm")
LABELS = LabelSet(
    labels=(
        Label(index=2, name="liver", code=LIVER, colour=(200, 100, 50)),
        Label(index=5, name="Läsion", code=TUMOUR),
        Label(index=7, name="duct"),
    )
)
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0))

Change = Callable[[FileDataset, int], None]


def scan_files(
    folder: Path, change: Change = lambda data, k: None, *, slices: int = SLICES, **changes: Any
) -> list[Path]:
    """A double-oblique series of 7 slices of 24 rows and 20 columns; `change` edits slice k."""
    voxels = np.random.default_rng(0).integers(0, 4096, (slices, ROWS, COLUMNS)).astype(np.uint16)
    made = []
    for k in range(slices):
        data = make(k, voxels, **changes)
        change(data, k)
        made.append(data)
    save(folder, *made)
    return sorted(folder.iterdir())


def tilted(data: FileDataset, k: int) -> None:
    """A gantry tilt: each slice is shifted along its columns, 20° against the normal."""
    shift = np.tan(np.deg2rad(20)) * STEP * k * COLUMN
    data.ImagePositionPatient = [round(float(x), 6) for x in ORIGIN + k * STEP * NORMAL + shift]


def noisy(data: FileDataset, k: int) -> None:
    """Direction cosines that differ by 3e-5 from slice to slice, and a distance between slices that is a lie."""
    noise = 3e-5 * np.random.default_rng(k).standard_normal(6)
    data.ImageOrientationPatient = [round(float(x), 7) for x in np.concatenate((ROW, COLUMN)) + noise]
    data.SpacingBetweenSlices = 1.0


def gapped(data: FileDataset, k: int) -> None:
    """The fourth slice and what follows lie one slice further away: one is missing."""
    if k >= 3:
        data.ImagePositionPatient = [round(float(x), 6) for x in ORIGIN + (k + 1) * STEP * NORMAL]


def bare(data: FileDataset, k: int) -> None:
    """An empty character set and none of the type 2 attributes that derived objects need."""
    data.SpecificCharacterSet = ""
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        if keyword in data:
            delattr(data, keyword)


def enhanced(folder: Path) -> list[Path]:
    """The same slices as frames of one file, in disorder, with spacing and orientation in each frame."""
    folder.mkdir()
    data = make(0, np.zeros((1, ROWS, COLUMNS), np.uint16))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.Modality = "MR"
    data.NumberOfFrames = SLICES
    data.PixelData = bytes(2 * SLICES * ROWS * COLUMNS)
    frames = []
    for k in np.random.default_rng(1).permutation(SLICES):
        frame, place, tilt, measures = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [round(float(x), 6) for x in ORIGIN + k * STEP * NORMAL]
        tilt.ImageOrientationPatient = [*ROW, *COLUMN]
        measures.PixelSpacing, measures.SliceThickness = [ROW_SPACING, COLUMN_SPACING], 3
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [tilt]
        frame.PixelMeasuresSequence = [measures]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.SharedFunctionalGroupsSequence = [Dataset()]
    path = folder / "enhanced.dcm"
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return [path]


def geometry_of(paths: list[Path]) -> Geometry:
    """The grid of single-frame files that are evenly spaced, tilted or not, worked out here from their positions."""
    headers = sorted(
        (pydicom.dcmread(path, stop_before_pixels=True) for path in paths),
        key=lambda data: float(NORMAL @ np.array(data.ImagePositionPatient)),
    )
    positions = np.array([data.ImagePositionPatient for data in headers], dtype=float)
    affine = np.eye(4)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3] = _LPS_TO_RAS @ np.column_stack((ROW * COLUMN_SPACING, COLUMN * ROW_SPACING, step, positions[0]))
    return Geometry((headers[0].Columns, headers[0].Rows, len(headers)), affine)


def grid(slices: int = SLICES) -> Geometry:
    """The grid of `scan_files` and `enhanced`."""
    affine = np.eye(4)
    affine[:3] = _LPS_TO_RAS @ np.column_stack((ROW * COLUMN_SPACING, COLUMN * ROW_SPACING, STEP * NORMAL, ORIGIN))
    return Geometry((COLUMNS, ROWS, slices), affine)


def phantom(geometry: Geometry, labels: LabelSet | None = LABELS) -> Segmentation:
    """A liver with a hole that has an island in it, a lesion of single voxels, and a duct that is nowhere."""
    array = np.zeros(geometry.shape, dtype=np.uint8)
    array[3:15, 4:18, 1:6] = 2
    array[6:12, 8:14, 2:5] = 0
    array[8:10, 10:12, 2:5] = 2
    array[7, 9, 3] = array[16, 2, 0] = array[17, 3, 0] = array[19, 23, 6] = 5
    return Segmentation(array, geometry, labels)


def dciodvfy(path: Path) -> list[str]:
    """The errors that dicom3tools finds in a file; skips where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian's dicom3tools)")
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in result.stderr.splitlines() if line.startswith("Error")]


def uids(paths: list[Path]) -> set[UID]:
    return {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths}


def written(
    folder: Path, paths: list[Path], segmentation: Segmentation, output_type: str = "dicom-seg"
) -> tuple[Path, tuple[Finding, ...]]:
    """The path of a label file on the slices of a series, and the findings on the way."""
    path = folder / ("plan.dcm" if output_type == "dicom-rtstruct" else "seg.dcm")
    return path, write_onto_source(segmentation, path, output_type, paths, MODEL)


def contours_in(path: Path) -> list[tuple[int, NDArray[np.float64]]]:
    """(ROI number, points (n, 3)) of every contour of an RTSTRUCT."""
    return [
        (int(item.ReferencedROINumber), np.array(contour.ContourData, dtype=float).reshape(-1, 3))
        for item in pydicom.dcmread(path).ROIContourSequence
        for contour in item.get("ContourSequence", [])
    ]


def area_mm2(points: NDArray[np.float64]) -> float:
    """Area that a planar polygon encloses."""
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0))) / 2


def refused_when_cut(path: Path, every: int) -> list[str]:
    """What is said of a label file of the phantom that ends too early, wherever; where it is read, it is whole."""
    whole, refused = path.read_bytes(), []
    for cut in range(2, len(whole) - 300, every):
        path.write_bytes(whole[:-cut])
        try:
            array = read_segmentation(path, onto=grid()).array
        except MedsegError as error:
            refused.append(str(error))
        else:
            np.testing.assert_array_equal(array, phantom(grid()).array)
    for message in refused:
        assert f"{path.name}: " in message
        assert "\n" not in message
        assert PATIENT not in message
    return refused
