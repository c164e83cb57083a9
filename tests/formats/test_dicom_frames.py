"""Files of many planes, and pixels that are not stored plainly."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medseg.errors import InputError, MedsegError
from medseg.formats import read, scan
from medseg.formats.dicom_pixels import Pixels
from tests.dicom_files import VOXELS, make, save
from tests.enhanced_files import enhanced, frame

EXPECTED = VOXELS.transpose(2, 1, 0).astype(int) - 1024
ORDER = (2, 0, 3, 1)


def test_frames_are_ordered_by_position_and_rescaled_each_by_its_own_slope(tmp_path: Path) -> None:
    slopes = (0.5, 1.0, 2.0, 4.0)
    frames = [frame(k, slope=slopes[k]) for k in ORDER]
    volume = read(save(tmp_path / "mr", enhanced(frames, VOXELS[list(ORDER)])))
    np.testing.assert_allclose(volume.array[0], VOXELS.transpose(2, 1, 0) * np.array(slopes) - 1024)
    assert [plane.frame for plane in volume.sources] == [ORDER.index(k) for k in range(4)]
    assert volume.geometry.spacing_mm == pytest.approx((0.5, 1.5, 4.0))


def test_enhanced_file_and_single_slices_give_the_same_grid(tmp_path: Path) -> None:
    one = read(save(tmp_path / "mr", enhanced([frame(k) for k in ORDER], VOXELS[list(ORDER)])))
    many = read(save(tmp_path / "ct", *(make(k) for k in range(4))))
    assert one.geometry.matches(many.geometry)
    np.testing.assert_array_equal(one.array, many.array)


def test_times_and_echoes_of_one_file_are_frames(tmp_path: Path) -> None:
    frames = [frame(k, time=time, echo=echo) for echo in (5, 10) for time in (1, 2) for k in range(4)]
    voxels = np.concatenate([VOXELS + np.uint16(n) for n in range(4)])
    folder = save(tmp_path / "mr", enhanced(frames, voxels))
    (series,) = scan(folder).series
    assert series.frames == 4
    for n in range(4):
        np.testing.assert_array_equal(read(series, frame=n).array[0], EXPECTED + n)


def test_missing_frame_is_interpolated_and_named(tmp_path: Path) -> None:
    kept = [0, 1, 3]
    volume = read(save(tmp_path / "mr", enhanced([frame(k) for k in kept], VOXELS[kept])))
    assert [finding.code for finding in volume.findings] == ["missing-slices"]
    assert "frame 1" in volume.findings[0].message
    np.testing.assert_array_equal(volume.array[0][..., kept], EXPECTED[..., kept])


def test_frames_without_position_and_frames_that_are_not_described_are_refused(tmp_path: Path) -> None:
    bare = [frame(k, PlanePositionSequence=[]) for k in range(4)]
    with pytest.raises(MedsegError, match="no usable ImagePositionPatient"):
        read(save(tmp_path / "bare", enhanced(bare, VOXELS)))
    wrong = enhanced([frame(k) for k in range(3)], VOXELS)
    wrong.NumberOfFrames = 4
    folder = save(tmp_path / "wrong", wrong)
    with pytest.raises(InputError, match="of 4 frames that describes 3"):
        read(folder)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_slices_are_read_alone_and_mixed_with_others(syntax: UID, tmp_path: Path) -> None:
    voxels = np.kron(VOXELS, np.ones((1, 16, 16), dtype=np.uint16))  # encoders do not take pictures of a few pixels
    slices = [make(k, voxels, Columns=voxels.shape[2]) for k in range(4)]
    for one in slices[::2]:
        uid = one.SOPInstanceUID
        one.compress(syntax)
        one.SOPInstanceUID = uid
        one.file_meta.MediaStorageSOPInstanceUID = uid
    volume = read(save(tmp_path / "ct", *slices))
    np.testing.assert_array_equal(volume.array[0], voxels.transpose(2, 1, 0) - 1024.0)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_values_of_any_length_and_sign_come_back(
    syntax: UID, signed: bool, bits: int, tmp_path: Path
) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    ramp = np.linspace(low, low + 2**bits - 1, 64 * 48).reshape(1, 64, 48)
    voxels = np.rint(ramp).astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    layout = {"BitsAllocated": 8 * voxels.itemsize, "BitsStored": bits, "HighBit": bits - 1}
    one = make(0, voxels, PixelRepresentation=int(signed), RescaleIntercept=0, **layout)
    one.compress(syntax)
    np.testing.assert_array_equal(read(save(tmp_path / "ct", one)).array[0, ..., 0], voxels[0].T)


def test_sign_that_only_the_header_tells_is_that_of_the_values(tmp_path: Path) -> None:
    voxels = np.arange(64 * 48, dtype=np.uint16).reshape(1, 64, 48)
    one = make(0, voxels, RescaleIntercept=0)
    one.compress(JPEG2000Lossless)
    one.PixelRepresentation = 1
    np.testing.assert_array_equal(
        read(save(tmp_path / "ct", one)).array[0, ..., 0],
        np.where(voxels[0].T > 2047, voxels[0].T - 4096.0, voxels[0].T),
    )


def test_small_file_that_promises_a_huge_picture_is_named_before_memory_is_taken(tmp_path: Path) -> None:
    slices = [make(k) for k in range(4)]
    for one in slices:
        one.compress(RLELossless)
    slices[1].Rows = slices[1].Columns = 65535
    ((_, reason),) = scan(save(tmp_path / "ct", *slices)).skipped
    assert "promises more pixels" in reason


def test_pictures_in_several_fragments_are_read(tmp_path: Path) -> None:
    voxels = np.kron(VOXELS, np.ones((1, 16, 16), dtype=np.uint16))
    slices = [make(k, voxels, Columns=voxels.shape[2]) for k in range(4)]
    for one in slices:
        one.compress(JPEG2000Lossless)
        (picture,) = generate_frames(one.PixelData, number_of_frames=1)
        one.PixelData = encapsulate([picture], fragments_per_frame=3, has_bot=False)
    np.testing.assert_array_equal(read(save(tmp_path / "ct", *slices)).array[0], voxels.transpose(2, 1, 0) - 1024.0)


def test_compressed_frames_of_one_file_are_read(tmp_path: Path) -> None:
    one = enhanced([frame(k) for k in ORDER], VOXELS[list(ORDER)])
    one.compress(RLELossless)
    np.testing.assert_array_equal(read(save(tmp_path / "mr", one)).array[0], EXPECTED)


def test_deflated_slices_are_read_and_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = [make(k) for k in range(4)]
    for one in slices:
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = save(tmp_path / "ct", *slices)
    np.testing.assert_array_equal(read(folder).array[0], EXPECTED)
    monkeypatch.setattr("medseg.formats.dicom_header.MOST_INFLATED_BYTES", 2**20)
    path = next(folder.iterdir())
    content = path.read_bytes()
    meta = 144 + int.from_bytes(content[140:144], "little")
    squeeze = zlib.compressobj(wbits=-15)
    path.write_bytes(content[:meta] + squeeze.compress(bytes(2**24)) + squeeze.flush())
    reasons = dict(scan(folder).skipped)
    assert "a deflated file of more than 1 MiB" in reasons[path]


def test_eight_bits_as_big_endian_words_are_not_swapped(tmp_path: Path) -> None:
    voxels = (VOXELS // 16).astype(np.uint8)
    slices = [make(k, voxels, BitsAllocated=8, BitsStored=8, HighBit=7) for k in range(4)]
    for one in slices:
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        one["PixelData"].VR = "OW"
        one.PixelData = np.frombuffer(one.PixelData, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
    np.testing.assert_array_equal(read(save(tmp_path / "ct", *slices)).array[0], voxels.transpose(2, 1, 0) - 1024.0)


def test_value_in_the_upper_bits_is_shifted_down(tmp_path: Path) -> None:
    slices = [make(k, (VOXELS << 4) | np.uint16(9), HighBit=15) for k in range(4)]
    np.testing.assert_array_equal(read(save(tmp_path / "ct", *slices)).array[0], EXPECTED)


def test_signed_and_unsigned_slices_of_one_series_agree(tmp_path: Path) -> None:
    signed = (VOXELS.astype(np.int16) - 1024).view(np.uint16)
    changes = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "RescaleIntercept": 0}
    slices = [make(k, signed, **changes) if k % 2 else make(k) for k in range(4)]
    volume = read(save(tmp_path / "ct", *slices))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[0], EXPECTED)


def test_picture_that_kills_the_decoder_is_an_error_and_the_next_is_read(tmp_path: Path) -> None:
    slices = [make(k) for k in range(4)]
    for one in slices:
        uid = one.SOPInstanceUID
        one.compress(RLELossless)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid
    (series,) = scan(save(tmp_path / "ct", *slices)).series
    first, second, *_ = read(series).sources
    planes = {plane.path: plane for plane in series.stacks[0].planes}
    with Pixels() as pixels:
        pixels.read(planes[first.path])
        pixels._decoder._process.kill()
        pixels._decoder._process.wait()
        assert pixels.read(planes[second.path]).shape == (6, 5)


def test_mosaic_without_its_header_is_refused_by_name(tmp_path: Path) -> None:
    one = make(0, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], Modality="MR")
    with pytest.raises(InputError, match="a mosaic of slices in one picture, without a header that tells"):
        read(save(tmp_path / "mr", one))


def test_tiles_of_a_shared_mosaic_lie_where_their_header_says(shared_data: Path) -> None:
    folder = shared_data / "fixtures" / "dicom" / "r20_mr_mosaic_fmri" / "data"
    volume = read(folder, frame=0)
    picture = pydicom.dcmread(volume.sources[0].path).pixel_array
    np.testing.assert_array_equal(volume.array[0, :, :, 7].T, picture[64:128, 64:128])
