"""DICOM series made for tests: a double-oblique grid whose row, column and slice spacings all differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROW = np.array((0.8, 0.6, 0.0))
COLUMN = np.array((0.0, 0.0, -1.0))
NORMAL = np.cross(ROW, COLUMN)
ROW_SPACING, COLUMN_SPACING, STEP = 1.5, 0.5, 4.0
ORIGIN = np.array((-20.0, 35.0, 100.0))
PATIENT = "Secretive^Patient"
VOXELS = np.random.default_rng(0).integers(0, 4096, (4, 6, 5)).astype(np.uint16)  # (slice, row, column)


def make(k: int, voxels: np.ndarray = VOXELS, **changes: Any) -> FileDataset:
    """Slice k of the series; `changes` replace attributes, or remove them where None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.4.{k}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    attributes = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": UID(f"1.2.3.4.{k}"),
        "StudyInstanceUID": UID("1.2.3"),
        "SeriesInstanceUID": UID("1.2.3.4"),
        "FrameOfReferenceUID": UID("1.2.3.9"),
        "Modality": "CT",
        "PatientName": PATIENT,
        "PatientID": PATIENT,
        "InstanceNumber": 7 * k % 4,  # misleads whoever sorts by it
        "SliceThickness": 99,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": [*ROW, *COLUMN],
        "ImagePositionPatient": [round(float(x), 6) for x in ORIGIN + k * STEP * NORMAL],
        "PixelSpacing": [ROW_SPACING, COLUMN_SPACING],
        "Rows": voxels.shape[1],
        "Columns": voxels.shape[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": voxels[k].tobytes(),
    }
    for keyword, value in (attributes | changes).items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def save(folder: Path, *slices: Dataset) -> Path:
    """Files in an order that has nothing to do with position."""
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(slices):
        pydicom.dcmwrite(folder / f"{number * 7 % 10}-{number}.dcm", one, enforce_file_format=True)
    return folder


def series(folder: Path, **changes: Any) -> Path:
    return save(folder, *(make(k, **changes) for k in range(len(VOXELS))))
