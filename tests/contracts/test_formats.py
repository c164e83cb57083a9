"""What every format in FORMATS keeps, so that a newcomer is covered by adding its name there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.formats import FORMATS, Format, read_segmentation, scan, write
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import Segmentation

every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda f: f.name)
every_ending = pytest.mark.parametrize("ending", [s for f in FORMATS for s in f.suffixes])


def test_names_and_endings_are_unique() -> None:
    names = [format_.name for format_ in FORMATS]
    endings = [suffix for format_ in FORMATS for suffix in format_.suffixes]
    assert len(set(names)) == len(names)
    assert len(set(endings)) == len(endings)


@every_format
def test_a_format_has_endings_exactly_if_it_writes(format_: Format) -> None:
    assert bool(format_.suffixes) == (format_.write is not None)


@every_format
@pytest.mark.parametrize("content", [b"", b"\0" * 2000, b"<!doctype html><p>report</p>" * 40, bytes(range(256)) * 8])
def test_what_is_no_scan_is_skipped_with_a_reason_or_refused_in_one_line(
    format_: Format, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "stranger"
    path.write_bytes(content)
    study = format_.scan([path])
    assert len(study.series) + len(study.skipped) == 1
    for series in study.series:
        assert not series.readable
        with pytest.raises(MedsegError, match="stranger") as caught:
            format_.read(series, None)
        assert "\n" not in str(caught.value)
    for _, reason in study.skipped:
        assert reason
        assert "\n" not in reason


@every_format
def test_plain_text_is_not_recognised(format_: Format) -> None:
    assert not format_.recognises(Path("notes.txt"), b"some notes about the study" * 40)


@every_ending
def test_labels_come_back_on_the_same_grid_with_their_names(ending: str, tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3), dtype=np.uint8)
    array[1:3, 2, 1] = 2
    geometry = Geometry(array.shape, np.array([[0, -0.5, 0, 9], [-0.7, 0, 0, 3], [0, 0, 2, -1], [0, 0, 0, 1.0]]))
    labels = LabelSet.from_names({1: "one", 2: "two"})
    path = tmp_path / f"seg{ending}"
    write(Segmentation(array, geometry, labels), path)
    back = read_segmentation(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.matches(geometry, tolerance=1e-4)
    assert back.labels == labels
    (series,) = scan(path).series
    assert series.readable
    assert path in series.paths
    assert series.shape == array.shape
    assert list(tmp_path.iterdir()) == [path]


@every_ending
def test_an_empty_segmentation_is_a_result_and_not_an_error(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"nothing{ending}"
    write(Segmentation(np.zeros((3, 3, 3), dtype=np.uint8), Geometry((3, 3, 3), np.eye(4))), path)
    assert not read_segmentation(path).array.any()
