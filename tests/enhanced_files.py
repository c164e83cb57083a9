"""Enhanced multi-frame images made for tests, from the grid of `dicom_files`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage

from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, ROW, ROW_SPACING, STEP, VOXELS, make


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def frame(place: int, *, slope: float = 1, time: int = 1, echo: float = 5, **more: Any) -> Dataset:
    position = [round(float(x), 6) for x in ORIGIN + place * STEP * NORMAL]
    groups = {
        "PlanePositionSequence": DicomSequence([item(ImagePositionPatient=position)]),
        "PlaneOrientationSequence": DicomSequence([item(ImageOrientationPatient=[*ROW, *COLUMN])]),
        "PixelValueTransformationSequence": DicomSequence([item(RescaleSlope=slope, RescaleIntercept=-1024)]),
        "FrameContentSequence": DicomSequence([item(TemporalPositionIndex=time)]),
        "MREchoSequence": DicomSequence([item(EffectiveEchoTime=echo)]),
    }
    return item(**(groups | more))


def enhanced(frames: Sequence[Dataset], voxels: np.ndarray, **changes: Any) -> FileDataset:
    """One file of these frames, whose pixels are `voxels` (frame, row, column)."""
    measures = item(
        PixelMeasuresSequence=DicomSequence([item(PixelSpacing=[ROW_SPACING, COLUMN_SPACING], SliceThickness=99)])
    )
    made = make(
        0,
        VOXELS,
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        NumberOfFrames=len(frames),
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        PixelData=voxels.astype(np.uint16).tobytes(),
        **changes,
    )
    made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    made.SharedFunctionalGroupsSequence = DicomSequence([measures])
    made.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return made
