from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg.formats import read
from medseg.formats.dicom_walk import walk
from tests.dicom_files import VOXELS, make, save

WANTED = {0x00080060, 0x00200032, 0x00280010, 0x00281053}


def content(syntax: UID, *, undefined: bool) -> tuple[bytes, int]:
    one = make(1)
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "inside"
    outer.ConceptNameCodeSequence = [inner]
    outer["ConceptNameCodeSequence"].is_undefined_length = undefined
    one.ReferencedImageSequence = [outer, outer]
    one["ReferencedImageSequence"].is_undefined_length = undefined
    outer.is_undefined_length_sequence_item = undefined
    one.file_meta.TransferSyntaxUID = syntax
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, one, enforce_file_format=True)
    written = buffer.getvalue()
    return written, 144 + int.from_bytes(written[140:144], "little")


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_wanted_elements_are_those_that_pydicom_finds(syntax: UID, undefined: bool) -> None:
    written, start = content(syntax, undefined=undefined)
    found = walk(written, start, WANTED, implicit=syntax == ImplicitVRLittleEndian)
    assert found is not None
    data, pixels_at = found
    one = make(1)
    assert {int(element.tag) for element in data} == WANTED
    assert data.Modality == "CT"
    assert list(data.ImagePositionPatient) == list(one.ImagePositionPatient)
    assert (data.Rows, data.RescaleSlope) == (6, 1)
    assert written[pixels_at : pixels_at + 4] == b"\xe0\x7f\x10\0"


def test_what_is_odd_is_left_to_pydicom() -> None:
    written, start = content(ExplicitVRLittleEndian, undefined=False)
    assert walk(written[:-400], start, WANTED, implicit=False) is None
    assert walk(written, start, WANTED, implicit=True) is None
    assert walk(written, start, {0x00081140}, implicit=False) is None


def test_group_length_before_the_pixels_is_passed_over(tmp_path: Path) -> None:
    slices = [make(k) for k in range(4)]
    for one in slices:
        one.add_new(0x7FE00000, "UL", 999)
    np.testing.assert_array_equal(read(save(tmp_path / "ct", *slices)).array[0], VOXELS.transpose(2, 1, 0) - 1024.0)
