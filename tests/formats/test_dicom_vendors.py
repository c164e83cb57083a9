"""What scanners of different makers write that no other does: read right, or refused with the reason."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medseg.errors import MedsegError
from medseg.formats import read, scan
from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, ROW, ROW_SPACING, STEP, VOXELS, make, save
from tests.enhanced_files import enhanced, frame, item

PLACES = len(VOXELS)
EXPECTED = VOXELS.transpose(2, 1, 0).astype(int) - 1024


def volume_of(number: int, **changes: Any) -> list[Any]:
    """The slices of a volume, each voxel larger by `number`."""
    return [
        make(k, VOXELS + np.uint16(number), SOPInstanceUID=UID(f"1.2.3.4.{number}.{k}"), Modality="MR", **changes)
        for k in range(PLACES)
    ]


def private(slices: list[Any], place: tuple[int, str, int, str], value: Any) -> list[Any]:
    group, creator, element, vr = place
    for one in slices:
        one.private_block(group, creator, create=True).add_new(element, vr, value)
    return slices


def save_as(folder: Path, slices: list[Any], syntax: UID) -> Path:
    for one in slices:
        one.file_meta.TransferSyntaxUID = syntax
    return save(folder, *slices)


B_VALUES = {
    "Siemens": (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", str),
    "Philips": (0x2001, "Philips Imaging DD 001", 0x03, "FL", float),
    "GE": (0x0043, "GEMS_PARM_01", 0x39, "IS", lambda b: [str(b), "0", "0", "0"]),
    "GE, later": (0x0043, "GEMS_PARM_01", 0x39, "IS", lambda b: [str(b + 10**9), "8", "0", "0"]),
    "UIH": (0x0065, "Image Private Header", 0x09, "FD", float),
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("maker", B_VALUES)
def test_b_values_in_elements_of_a_maker_make_volumes(maker: str, syntax: UID, tmp_path: Path) -> None:
    *place, written = B_VALUES[maker]
    slices = []
    for number, b_value in enumerate((0, 500, 1000)):
        slices += private(volume_of(number), tuple(place), written(b_value))
    (series,) = scan(save_as(tmp_path / "dwi", slices, syntax)).series
    assert series.frames == 3
    assert "b-value" in next(finding.message for finding in series.findings if finding.code == "frames")
    for number in range(3):
        np.testing.assert_array_equal(read(series, frame=number).array[0], EXPECTED + number)


def test_scale_of_philips_in_private_elements_is_not_applied(tmp_path: Path) -> None:
    slices = volume_of(0, RescaleSlope=2, RescaleIntercept=-5)
    private(slices, (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL"), 7.0)
    np.testing.assert_array_equal(read(save(tmp_path / "mr", *slices)).array[0], (EXPECTED + 1024) * 2 - 5)


def test_trigger_times_that_differ_from_place_to_place_make_phases(tmp_path: Path) -> None:
    slices = []
    for phase in range(3):
        for k, one in enumerate(volume_of(phase)):
            one.TriggerTime, one.InstanceNumber = 33 * phase + 1.5 * k, (7 * (3 * k + phase)) % 12
            slices.append(one)
    (series,) = scan(save(tmp_path / "cine", *slices)).series
    assert series.frames == 3
    for phase in range(3):
        np.testing.assert_array_equal(read(series, frame=phase).array[0], EXPECTED + phase)


def test_times_that_overlap_from_place_to_place_are_refused(tmp_path: Path) -> None:
    slices = []
    for phase in range(3):
        for k, one in enumerate(volume_of(phase)):
            one.TriggerTime, one.InstanceNumber = 33 * phase + 20 * k, (7 * (3 * k + phase)) % 12
            slices.append(one)
    with pytest.raises(MedsegError, match="nothing in the headers tells them apart"):
        read(save(tmp_path / "cine", *slices))


def test_one_place_at_several_times_is_as_many_volumes_of_one_slice(tmp_path: Path) -> None:
    slices = [volume_of(phase, TriggerTime=40 * phase, SliceThickness=8)[0] for phase in range(5)]
    (series,) = scan(save(tmp_path / "cine", *slices)).series
    assert (series.frames, series.shape) == (5, (5, 6, 1))
    np.testing.assert_array_equal(read(series, frame=4).array[0], EXPECTED[..., :1] + 4)


@pytest.mark.parametrize(
    "types", [(["ORIGINAL", "PRIMARY", "M", "FFE"], ["ORIGINAL", "PRIMARY", "P", "FFE"]),
              (["DERIVED", "PRIMARY", "DIXON", "WATER"], ["DERIVED", "PRIMARY", "DIXON", "FAT"])]
)  # fmt: skip
def test_magnitude_and_phase_water_and_fat_are_candidates_of_their_own(types: Any, tmp_path: Path) -> None:
    slices = [*volume_of(0, ImageType=types[0]), *volume_of(1, ImageType=types[1])]
    study = scan(save(tmp_path / "mr", *slices))
    assert [series.frames for series in study.readable] == [1, 1]
    assert sorted(int(read(series).array[0, 0, 0, 0] - EXPECTED[0, 0, 0]) for series in study.readable) == [0, 1]


def test_slices_of_every_encoding_in_one_series_are_one_volume(tmp_path: Path) -> None:
    slices = volume_of(0)
    slices[1].compress(RLELossless)
    slices[2].file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    slices[2].PixelData = VOXELS[2].astype(">u2").tobytes()
    slices[3].file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(read(save(tmp_path / "mr", *slices)).array[0], EXPECTED)


def test_padding_and_the_lack_of_type_2_elements_change_nothing(tmp_path: Path) -> None:
    slices = volume_of(0, PixelPaddingValue=0, PatientName=None, PatientID=None, InstanceNumber=None)
    for one in slices:
        one.SpecificCharacterSet = ""
    volume = read(save(tmp_path / "ct", *slices))
    np.testing.assert_array_equal(volume.array[0], EXPECTED)
    assert volume.findings == ()


@pytest.mark.parametrize("value", ["0,5\\1,5", "", "0.5", "0.5\\1.5\\2", "nan\\1"])
def test_spacing_that_is_no_two_numbers_is_refused(value: str, tmp_path: Path) -> None:
    slices = volume_of(0, PixelSpacing=None)
    for one in slices:
        one.add_new("PixelSpacing", "LO", value)
    with pytest.raises(MedsegError, match="no usable PixelSpacing"):
        read(save(tmp_path / "ct", *slices))


def test_enhanced_image_whose_stacks_have_two_orientations_is_two_candidates(tmp_path: Path) -> None:
    turned = item(PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]))
    frames = [frame(k) for k in range(PLACES)]
    others = [frame(k, PlaneOrientationSequence=turned.PlaneOrientationSequence) for k in range(PLACES)]
    for k, one in enumerate(others):
        one.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3 * k]
    study = scan(save(tmp_path / "mr", enhanced([*frames, *others], np.concatenate([VOXELS, VOXELS + 1]))))
    assert [series.shape for series in study.readable] == [(5, 6, PLACES)] * 2
    for series, offset in zip(sorted(study.readable, key=lambda one: one.spacing_mm[2]), (1, 0), strict=True):
        np.testing.assert_array_equal(read(series).array[0], EXPECTED + offset)


def test_enhanced_image_that_shares_all_but_positions_and_one_that_shares_even_these(tmp_path: Path) -> None:
    positions = [item(PlanePositionSequence=frame(k).PlanePositionSequence) for k in range(PLACES)]
    image = enhanced(positions, VOXELS)
    for name in ("PlaneOrientationSequence", "PixelValueTransformationSequence"):
        setattr(image.SharedFunctionalGroupsSequence[0], name, frame(0)[name].value)
    np.testing.assert_array_equal(read(save(tmp_path / "mr", image)).array[0], EXPECTED)
    image.SharedFunctionalGroupsSequence[0].PlanePositionSequence = frame(0).PlanePositionSequence
    image.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in range(PLACES)])
    with pytest.raises(MedsegError, match="several slices at one place"):
        read(save(tmp_path / "same", image))


def csa(fields: dict[str, list[str]]) -> bytes:
    """A CSA2 header."""
    content = b"SV10\4\3\2\1" + struct.pack("<ii", len(fields), 77)
    for name, values in fields.items():
        content += name.encode().ljust(64, b"\0") + struct.pack("<i4siii", len(values), b"FD\0\0", 3, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            content += struct.pack("<iiii", 0, len(text), 77, 0) + text.ljust((len(text) + 3) // 4 * 4, b"\0")
    return content


@pytest.mark.parametrize(("count", "across"), [(3, 2), (4, 2), (7, 3)])
def test_mosaic_of_any_number_of_tiles_lies_where_its_header_says(count: int, across: int, tmp_path: Path) -> None:
    rows, columns = VOXELS.shape[1:]
    tiles = np.random.default_rng(count).integers(0, 4096, (across**2, rows, columns)).astype(np.uint16)
    picture = tiles.reshape(across, across, rows, columns).swapaxes(1, 2).reshape(across * rows, across * columns)
    corner = ORIGIN - ROW * COLUMN_SPACING * (across - 1) * columns / 2 - COLUMN * ROW_SPACING * (across - 1) * rows / 2
    one = make(
        0,
        picture[np.newaxis],
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        ImagePositionPatient=np.round(corner, 6).tolist(),
    )
    private([one], (0x0019, "SIEMENS MR HEADER", 0x0A, "US"), count)
    fields = {"SliceNormalVector": [f"{x:.8f}" for x in NORMAL], "NumberOfImagesInMosaic": [str(count)]}
    fields["SpacingBetweenSlices"] = [str(STEP)]
    private([one], (0x0029, "SIEMENS CSA HEADER", 0x10, "OB"), csa(fields))
    volume = read(save(tmp_path / "fmri", one))
    np.testing.assert_array_equal(volume.array[0], tiles[:count].transpose(2, 1, 0).astype(int) - 1024)
    np.testing.assert_allclose(volume.geometry.to_world((0, 0, 0)), ORIGIN * (-1, -1, 1), atol=1e-3)
    last = ORIGIN + (count - 1) * STEP * NORMAL + 4 * COLUMN_SPACING * ROW + 5 * ROW_SPACING * COLUMN
    np.testing.assert_allclose(volume.geometry.to_world((4, 5, count - 1)), last * (-1, -1, 1), atol=1e-3)
