from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import attempt, corpus, hostile

KINDS = (
    "plain", "implicit", "deflated", "rle", "enhanced", "nrrd False", "nrrd True", "mha False", "mha True", "nifti",
    "nifti gz", "png", "tif", "jpg", "zip", "tar", "dicom-seg", "dicom-seg-binary", "dicom-rtstruct",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return corpus(tmp_path_factory.mktemp("fuzz") / "corpus")


def test_every_file_of_the_corpus_is_attacked_and_is_sound(files: dict[str, Path]) -> None:
    assert tuple(files) == KINDS
    assert {attempt(path) for path in files.values()} == {"read"}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_copies_are_read_or_refused_and_never_crash(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(30):
        victim = tmp_path / f"{seed}{files[kind].suffix}"
        victim.write_bytes(hostile(files[kind].read_bytes(), seed))
        outcomes.add(attempt(victim))
    assert len(outcomes) > 1
