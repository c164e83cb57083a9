"""What is done to stacks that are not regular, and that it can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from medseg.errors import GeometryError, InputError
from medseg.formats import read, scan
from medseg.study import ScanOptions
from medseg.volume import Segmentation, Volume
from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, ROW, STEP, VOXELS, make, save

STRICT = ScanOptions(geometry="strict")


def value_at(points_lps: np.ndarray) -> np.ndarray:
    """A field that is linear in space, so that linear interpolation is exact."""
    return 1000 + (points_lps - ORIGIN) @ np.array((3.0, -2.0, 5.0))


def linear_series(folder: Path, offsets: Sequence[np.ndarray], **changes: Any) -> Path:
    """Slices at these offsets from ORIGIN (mm) through a linear field, stored in hundredths."""
    slices = []
    for n, offset in enumerate(offsets):
        position = np.round(ORIGIN + offset, 6)
        j, i = np.meshgrid(np.arange(6), np.arange(5), indexing="ij")
        points = position + i[..., None] * COLUMN_SPACING * ROW + j[..., None] * 1.5 * COLUMN
        voxels = np.rint(value_at(points) * 10).astype(np.uint16)[None]
        plane = {"ImagePositionPatient": position.tolist(), "SOPInstanceUID": UID(f"1.2.3.4.{n}"), "BitsStored": 16}
        plane |= {"HighBit": 15, "RescaleSlope": 0.1, "RescaleIntercept": 0, "InstanceNumber": n, **changes}
        slices.append(make(0, voxels, **plane))
    return save(folder, *slices)


def along(*places: float) -> list[np.ndarray]:
    return [place * STEP * NORMAL for place in places]


def assert_is_the_field(volume: Volume, planes: slice = slice(None), tolerance: float = 0.11) -> None:
    ras = volume.geometry.to_world(np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), -1))
    expected = value_at(ras * (-1, -1, 1))
    np.testing.assert_allclose(volume.array[0][..., planes], expected[..., planes], atol=tolerance)


def codes(volume: Volume) -> list[str]:
    return [finding.code for finding in volume.findings]


IRREGULAR = {
    "one slice missing": (along(0, 1, 3, 4), "missing-slices", 5),
    "two gaps": (along(0, 2, 3, 4, 5, 8, 9, 10, 11, 12), "missing-slices", 13),
    "closer in one half": (along(0, 0.5, 1, 1.5, 2, 3, 4, 5), "varying-spacing", 11),
    "every distance another": (along(0, 1, 1.9, 3.1, 4.2, 5), "varying-spacing", 6),
    "stations that overlap": (along(0, 1, 2, 3, 2.6, 3.6, 4.6, 5.6), "varying-spacing", None),
    "table that drifts": (
        [n * STEP * NORMAL + 0.04 * n * n * ROW for n in range(6)],
        "drift",
        6,
    ),
}


@pytest.mark.parametrize("case", IRREGULAR)
def test_irregular_stack_becomes_regular_with_a_finding_and_values_stay_in_place(case: str, tmp_path: Path) -> None:
    offsets, code, count = IRREGULAR[case]
    volume = read(linear_series(tmp_path / "ct", offsets))
    assert code in codes(volume)
    assert count in (None, volume.geometry.shape[2])
    inner = volume.array[0, 1:-2] if code == "drift" else volume.array[0]  # a shifted plane has an edge without data
    geometry = volume.geometry
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
    expected = value_at(geometry.to_world(indices) * (-1, -1, 1))
    expected = expected[1:-2] if code == "drift" else expected
    np.testing.assert_allclose(inner, expected, atol=0.6 if code == "drift" else 0.11)


@pytest.mark.parametrize("case", IRREGULAR)
def test_strict_refuses_what_would_have_to_be_interpolated(case: str, tmp_path: Path) -> None:
    folder = linear_series(tmp_path / "ct", IRREGULAR[case][0])
    with pytest.raises(GeometryError, match="not a regular stack, and --geometry strict"):
        read(folder, options=STRICT)


@pytest.mark.parametrize("case", IRREGULAR)
def test_labels_of_a_repaired_volume_come_back_to_the_source_slices(case: str, tmp_path: Path) -> None:
    volume = read(linear_series(tmp_path / "ct", IRREGULAR[case][0]))
    middle = float(np.median(volume.array))
    labels = Segmentation((volume.array[0] > middle).astype(np.uint8), volume.geometry)
    assert len(volume.sources) == len(IRREGULAR[case][0])
    for plane in volume.sources:
        indices = np.stack(np.meshgrid(*map(np.arange, plane.geometry.shape), indexing="ij"), -1)
        values = value_at(plane.geometry.to_world(indices) * (-1, -1, 1))
        clear = np.abs(values - middle) > 12  # mm times gradient: nearest labels are exact beyond half a voxel
        clear &= volume.geometry.to_voxel(plane.geometry.to_world(indices))[..., 0] < volume.geometry.shape[0] - 0.6
        clear &= volume.geometry.to_voxel(plane.geometry.to_world(indices))[..., 0] > -0.4
        assert clear.any()
        np.testing.assert_array_equal(labels.on(plane.geometry)[clear], (values > middle)[clear])


def test_missing_slices_leave_the_others_as_they_are(tmp_path: Path) -> None:
    whole = read(linear_series(tmp_path / "whole", along(0, 1, 2, 3, 4)))
    gap = read(linear_series(tmp_path / "gap", along(0, 1, 3, 4)))
    assert gap.geometry.matches(whole.geometry)
    np.testing.assert_array_equal(gap.array[..., (0, 1, 3, 4)], whole.array[..., (0, 1, 3, 4)])
    (finding,) = gap.findings
    assert finding.message.startswith("1 slice(s) missing, 8 mm after")


def test_tilted_stack_is_exact_sheared_and_not_refused_by_strict(tmp_path: Path) -> None:
    step = STEP * NORMAL + np.tan(np.radians(20)) * STEP * COLUMN
    volume = read(linear_series(tmp_path / "ct", [n * step for n in range(5)]), options=STRICT)
    assert codes(volume) == ["tilt"]
    assert "20.0°" in volume.findings[0].message
    assert not volume.geometry.is_orthogonal
    assert_is_the_field(volume)


def test_labels_of_a_tilted_scan_are_on_the_source_slices_voxel_for_voxel(tmp_path: Path) -> None:
    step = STEP * NORMAL + np.tan(np.radians(14)) * STEP * COLUMN
    volume = read(linear_series(tmp_path / "ct", [n * step for n in range(5)]))
    array = np.random.default_rng(0).integers(0, 3, volume.geometry.shape).astype(np.uint8)
    labels = Segmentation(array, volume.geometry)
    for k, plane in enumerate(volume.sources):
        np.testing.assert_array_equal(labels.on(plane.geometry), array[..., k : k + 1])


def test_jitter_is_averaged_over_the_whole_stack(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).uniform(-0.03, 0.03, 20)
    volume = read(linear_series(tmp_path / "ct", along(*(np.arange(20) + noise))), options=STRICT)
    assert codes(volume) == ["jitter"]
    assert volume.geometry.spacing_mm[2] == pytest.approx(STEP, abs=0.01)
    far = volume.geometry.to_world((0, 0, 19)) * (-1, -1, 1)
    np.testing.assert_allclose(far, ORIGIN + 19 * STEP * NORMAL, atol=0.1)


def test_slice_without_position_is_named_and_treated_as_missing(tmp_path: Path) -> None:
    folder = linear_series(tmp_path / "ct", along(0, 1, 2, 3, 4))
    victim = read(folder).sources[2].path
    victim.unlink()
    save(tmp_path / "other", make(2, ImagePositionPatient=None, SOPInstanceUID=UID("1.2.3.4.99")))
    next((tmp_path / "other").iterdir()).rename(folder / "lost.dcm")
    volume = read(folder)
    assert codes(volume) == ["missing-slices", "slice-left-out"]
    assert "lost.dcm was left out: has no usable ImagePositionPatient" in volume.findings[1].message
    assert_is_the_field(volume)
    with pytest.raises(GeometryError, match=r"lost\.dcm: has no usable ImagePositionPatient"):
        read(folder, options=STRICT)


def test_copies_under_another_uid_are_dropped(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "ct", *(make(k) for k in range(4)), *(make(k, SOPInstanceUID=UID(f"1.9.{k}")) for k in (1, 2))
    )
    volume = read(folder)
    assert codes(volume) == ["duplicates"]
    assert volume.geometry.shape[2] == 4


def test_of_contradicting_slices_the_latest_is_taken_on_request(tmp_path: Path) -> None:
    old = [make(k, AcquisitionDate="20200101") for k in range(4)]
    new = make(1, np.flip(VOXELS, 1), AcquisitionDate="20200102")
    folder = save(tmp_path / "ct", *old, new)
    with pytest.raises(InputError, match="take the latest with --prefer latest"):
        read(folder)
    volume = read(folder, options=ScanOptions(prefer="latest"))
    assert codes(volume) == ["older-left-out"]
    np.testing.assert_array_equal(volume.array[0, ..., 1], np.flip(VOXELS, 1)[1].T.astype(int) - 1024)


def test_scan_tells_the_repaired_grid_without_reading_voxels(tmp_path: Path) -> None:
    (series,) = scan(linear_series(tmp_path / "ct", along(0, 1, 3, 4))).series
    assert series.shape == (5, 6, 5)
    assert [finding.code for finding in series.findings] == ["missing-slices"]
