"""Headers of many files, and headers that are large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.formats import dicom_files, dicom_limits, read, scan
from tests.dicom_files import VOXELS, make, save, series
from tests.enhanced_files import enhanced, frame


def test_many_files_are_read_by_several_processes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = series(tmp_path / "ct")
    save(folder / "more", make(1, Modality="SR", Rows=None), make(2, ImagePositionPatient=None))
    (folder / "cut.dcm").write_bytes(min(folder.glob("*.dcm")).read_bytes()[:700])
    alone = scan(folder)
    monkeypatch.setattr(dicom_files, "ENOUGH_FILES", 2)
    monkeypatch.setattr(dicom_files, "_CHUNK", 2)
    monkeypatch.setattr(dicom_files, "cores", lambda: 2)
    seen: list[tuple[int, int]] = []
    together = scan(folder, progress=lambda done, total: seen.append((done, total)))
    assert together.skipped == alone.skipped
    assert len(alone.skipped) == 2
    for one, other in zip(together.series, alone.series, strict=True):
        assert (one.paths, one.findings, one.shape, one.owner) == (
            other.paths,
            other.findings,
            other.shape,
            other.owner,
        )
    assert seen == [(n + 1, 7) for n in range(7)]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose header is beyond what is parsed without limits, were these so low."""
    monkeypatch.setattr("medseg.formats.dicom_header.MOST_HEADER_BYTES", 1000)
    return save(tmp_path / "mr", enhanced([frame(k) for k in range(4)], VOXELS))


def test_large_header_is_read_by_a_limited_process(large: Path) -> None:
    np.testing.assert_array_equal(read(large).array[0], VOXELS.transpose(2, 1, 0) - 1024.0)


def test_header_that_takes_more_than_a_header_may_is_refused(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_limits, "MOST_SECONDS", 0)
    ((_, reason),) = scan(large).skipped
    assert "more memory or time than a header may" in reason
