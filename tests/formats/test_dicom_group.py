"""What separates volumes, and what tells apart planes at one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from medseg.errors import GeometryError, InputError
from medseg.formats import read, scan
from tests.dicom_files import ORIGIN, STEP, VOXELS, make, save

PLACES = len(VOXELS)


def other(k: int, number: int, **changes: Any) -> Any:
    """Slice k of another volume of the same series, each of its voxels larger by `number`."""
    uid = UID(f"1.2.3.4.{number}.{k}")
    return make(k, VOXELS + np.uint16(number), SOPInstanceUID=uid, **changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("orientation", {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
        ("pixel spacing", {"PixelSpacing": [1.5, 0.6]}),
        ("kernel", {"ConvolutionKernel": "B70f"}),
        ("image type", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("image type", {"ComplexImageComponent": "PHASE"}),
        ("photometric interpretation", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("unit", {"RescaleType": "US"}),
    ],
)
def test_what_cannot_be_one_volume_is_separated_and_told(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    second = [other(k, 1, **changes) for k in range(PLACES)]
    if "ImageOrientationPatient" in changes:
        for k, one in enumerate(second):
            one.ImagePositionPatient = [0, 0, 3 * k]
    study = scan(save(tmp_path / "ct", *(make(k) for k in range(PLACES)), *second))
    assert [len(series.paths) for series in study.readable] == [PLACES, PLACES]
    for series in study.series:
        assert [finding.code for finding in series.findings] == ["series-separated"]
        assert name in series.findings[0].message
        assert read(series).geometry.shape == (5, 6, PLACES)


FRAMES = {
    "time": [{"TemporalPositionIdentifier": n} for n in (1, 2, 3)],
    "phase": [{"TriggerTime": n} for n in (0, 100, 200)],
    "echo": [{"EchoTime": n} for n in (5, 10, 15)],
    "b-value": [{"DiffusionBValue": n} for n in (0, 500, 1000)],
    "direction": [
        {"DiffusionBValue": 800, "DiffusionGradientOrientation": v, "InstanceNumber": n}
        for n, v in enumerate(np.eye(3).tolist())
    ],
    "acquisition": [{"AcquisitionNumber": n} for n in (1, 2, 3)],
    "two keys": [
        {"TemporalPositionIdentifier": 1, "AcquisitionNumber": 1},
        {"TemporalPositionIdentifier": 1, "AcquisitionNumber": 2},
        {"TemporalPositionIdentifier": 2, "AcquisitionNumber": 1},
    ],
}


@pytest.mark.parametrize("case", FRAMES)
def test_volumes_on_one_grid_are_frames_of_one_candidate(case: str, tmp_path: Path) -> None:
    slices = [other(k, n, **changes) for n, changes in enumerate(FRAMES[case]) for k in range(PLACES)]
    folder = save(tmp_path / "mr", *(slices[n] for n in np.random.default_rng(0).permutation(len(slices))))
    (series,) = scan(folder).series
    assert series.frames == 3
    for n in range(3):
        frame = read(folder, frame=n)
        first_values = VOXELS.transpose(2, 1, 0).astype(int) - 1024
        np.testing.assert_array_equal(frame.array[0], first_values + n)
        assert "frames" not in [finding.code for finding in frame.findings]
    first = read(folder)
    np.testing.assert_array_equal(first.array, read(folder, frame=0).array)
    assert [finding.code for finding in first.findings] == ["frames"]
    with pytest.raises(InputError, match="has no frame 3, only 3; choose --frame N with N from 0 to 2"):
        read(folder, frame=3)


def test_frame_that_lacks_a_slice_is_completed_and_stays_a_frame(tmp_path: Path) -> None:
    slices = [other(k, n, TemporalPositionIdentifier=n) for n in range(3) for k in range(PLACES) if (n, k) != (1, 2)]
    (series,) = scan(save(tmp_path / "mr", *slices)).series
    assert series.frames == 3
    assert "missing-slices" in [finding.code for finding in read(series, frame=1).findings]


def test_planes_at_one_place_are_told_apart_by_their_order_only_where_it_is_consistent(tmp_path: Path) -> None:
    by_volume = [other(k, n, InstanceNumber=n * PLACES + k) for n in range(2) for k in range(PLACES)]
    (series,) = scan(save(tmp_path / "order", *by_volume)).series
    assert series.frames == 2
    np.testing.assert_array_equal(read(series, frame=1).array, read(series, frame=0).array + 1)
    numbers = ((3, 0, 6, 1), (5, 7, 2, 4))
    mixed = [other(k, n, InstanceNumber=numbers[n][k]) for n in range(2) for k in range(PLACES)]
    with pytest.raises(GeometryError, match="nothing in the headers tells them apart"):
        read(save(tmp_path / "mixed", *mixed))


def test_stations_that_overlap_become_one_volume(tmp_path: Path) -> None:
    normal = np.cross((0.8, 0.6, 0), (0, 0, -1))
    stations = [(1, n) for n in range(5)] + [(2, n) for n in range(4, 9)]
    slices = []
    for number, (station, place) in enumerate(stations):
        position = np.round(ORIGIN + place * STEP * normal, 6).tolist()
        slices.append(other(0, number, AcquisitionNumber=station, ImagePositionPatient=position))
    volume = read(save(tmp_path / "ct", *slices))
    assert volume.geometry.shape[2] == 9
    assert [finding.code for finding in volume.findings] == ["overlap"]


def test_localizer_of_mr_is_left_out_beside_a_scan_and_taken_alone(tmp_path: Path) -> None:
    planes = [
        make(k, Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=UID("1.7"))
        for k in range(3)
    ]
    for k, one in enumerate(planes):
        one.SOPInstanceUID = UID(f"1.7.{k}")
    save(tmp_path / "localizer", *planes)
    save(tmp_path / "scan", *(make(k, Modality="MR") for k in range(PLACES)))
    study = scan(tmp_path)
    assert [series.aside for series in study.series] == ["a localizer", ""]
    assert [study.left_out(series) for series in study.series] == ["a localizer", ""]
    volume = read(tmp_path)
    assert volume.geometry.shape[2] == PLACES
    assert "a localizer" in volume.findings[-1].message
    assert read(tmp_path / "localizer").geometry.shape[2] == 3


def test_slices_of_one_series_under_two_studies_are_one_volume_and_ids_are_opaque(tmp_path: Path) -> None:
    folder = save(tmp_path / "ct", *(make(k, StudyInstanceUID=UID(f"1.2.{k}")) for k in range(PLACES)))
    (series,) = scan(folder).series
    assert len(series.owner) == 3
    assert "Secretive" not in repr(series)
    assert series.description == ""
