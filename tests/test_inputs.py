import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.cases import plan_cases
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.inputs import find_inputs, read_input
from tests.tiny import phantom, save_scan


def names(*patterns: object, channels: int = 1) -> list[str]:
    return [one.name for one in find_inputs([str(pattern) for pattern in patterns], channels=channels)]


def test_file_folder_and_glob_give_the_same_scan_once(tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz")
    assert names(scan, tmp_path, tmp_path / "*.nii.gz", tmp_path / "." / "a.nii.gz") == ["a"]


def test_folder_gives_the_scans_in_it_and_below_and_passes_over_other_files(tmp_path):
    save_scan(tmp_path / "a.nii.gz")
    save_scan(tmp_path / "sub" / "b.v2.nii")
    (tmp_path / "notes.txt").write_text("not a scan")
    assert names(tmp_path) == ["a", "b.v2"]


def test_dicom_folder_is_one_scan_that_bears_the_folders_name(data, tmp_path):
    shutil.copytree(data / "ct_dicom", tmp_path / "study")
    (scan,) = find_inputs([str(tmp_path / "study")])
    assert (scan.name, scan.beside, len(scan.paths)) == ("study", tmp_path, 3)


def test_scans_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("x", "y"):
        save_scan(tmp_path / folder / "scan.nii.gz")
    save_scan(tmp_path / "y" / "other.nii.gz")
    assert names(tmp_path) == ["x_scan", "other", "y_scan"]
    save_scan(tmp_path / "z" / "y" / "scan.nii.gz")
    assert names(tmp_path) == ["x_scan", "other", "y_scan", "y_scan_2"]


def test_damaged_scan_in_a_folder_is_listed_with_its_problem(tmp_path):
    save_scan(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:60])
    good, bad = find_inputs([str(tmp_path)])
    assert good.problem is None
    assert "b.nii.gz" in str(bad.problem)
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        read_input(bad, channels=1, frame=None)


@pytest.mark.parametrize("pattern", ["missing.nii.gz", "*.nrrd", "empty"])
def test_pattern_that_names_nothing_is_refused_by_name(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=pattern.strip("*")):
        find_inputs([str(tmp_path / pattern)])


def test_channel_files_become_one_scan_for_a_model_of_several_channels(tmp_path):
    for number in range(2):
        save_scan(tmp_path / f"case_000{number}.nii.gz", phantom() * (number + 1))
    assert names(tmp_path) == ["case_0000", "case_0001"]
    (scan,) = find_inputs([str(tmp_path)], channels=2)
    volume = read_input(scan, channels=2, frame=None)
    assert scan.name == "case"
    np.testing.assert_array_equal(volume.array, np.stack([phantom(), phantom() * 2]))


def test_missing_channel_file_is_named(tmp_path):
    save_scan(tmp_path / "case_0000.nii.gz")
    (scan,) = find_inputs([str(tmp_path)], channels=2)
    assert "case_0001 is missing" in str(scan.problem)


def test_channels_on_different_grids_are_refused(tmp_path):
    save_scan(tmp_path / "case_0000.nii.gz")
    save_scan(tmp_path / "case_0001.nii.gz", spacing_mm=(1, 1, 3))
    (scan,) = find_inputs([str(tmp_path)], channels=2)
    with pytest.raises(GeometryError, match=r"case_0001.*resample"):
        read_input(scan, channels=2, frame=None)


def test_volumes_of_a_4d_file_are_the_channels_if_there_are_as_many(tmp_path):
    four = np.stack([phantom(), phantom() * 2], axis=-1)
    path = save_scan(tmp_path / "four.nii.gz", four)
    (scan,) = find_inputs([str(path)], channels=2)
    np.testing.assert_array_equal(read_input(scan, channels=2, frame=None).array, np.moveaxis(four, -1, 0))
    assert read_input(scan, channels=1, frame=1).array.shape == (1, *phantom().shape)
    with pytest.raises(InputError, match="--frame"):
        read_input(scan, channels=3, frame=None)


def test_where_results_go(tmp_path):
    for name in "ab":
        save_scan(tmp_path / f"{name}.nii.gz")
    both = find_inputs([str(tmp_path)])

    def places(inputs, output):
        cases = plan_cases(inputs, output and tmp_path / output)
        return [(c.mask.relative_to(tmp_path).as_posix(), c.folder.relative_to(tmp_path).as_posix()) for c in cases]

    assert places(both, None) == [("a_seg.nii.gz", "a_seg"), ("b_seg.nii.gz", "b_seg")]
    assert places(both[:1], "m.nii.gz") == [("m.nii.gz", "m")]
    assert places(both[:1], "out") == [("out/a_seg.nii.gz", "out")]
    assert places(both, "out") == [("out/a/a_seg.nii.gz", "out/a"), ("out/b/b_seg.nii.gz", "out/b")]
    with pytest.raises(ConfigError, match="one file for 2 scans"):
        places(both, "m.nii.gz")
    with pytest.raises(ConfigError, match="replace the scan"):
        places(both[:1], "a.nii.gz")


def test_names_do_not_depend_on_the_working_folder(data, tmp_path, monkeypatch):
    shutil.copytree(data / "ct_dicom", tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    (scan,) = find_inputs(["."])
    assert (scan.name, scan.beside) == ("study", Path(tmp_path))
