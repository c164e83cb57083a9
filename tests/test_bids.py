import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from medseg.bids import is_dataset
from medseg.cli import main
from tests.tiny import LABELS, files_below, labels_in, phantom, save_scan, save_tiny_model

STEM = "sub-01/anat/sub-01_space-T1w_desc-medseg_dseg"


@pytest.fixture
def root(tmp_path) -> Path:
    """Two subjects, one with sessions, and files that are no scans to segment."""
    root = tmp_path / "bids"
    save_scan(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    save_scan(root / "sub-01" / "anat" / "sub-01_T2w.nii.gz", phantom() // 2)
    save_scan(root / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_acq-hi_T1w.nii.gz")
    for passed_over in (
        "sub-01/anat/sub-01_defacemask.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "sourcedata/scan.nii.gz",
    ):
        save_scan(root / passed_over)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Test", "BIDSVersion": "1.8.0"}))
    return root


def batch(tmp_path, root, *options) -> Result:
    if not (tmp_path / "models").exists():
        save_tiny_model(tmp_path / "models" / "tiny")
    words = ("batch", root, root / "derivatives" / "medseg", "--model", tmp_path / "models" / "tiny", *options)
    return CliRunner().invoke(main, [str(word) for word in words])


def test_derivative_has_masks_tables_provenance_pages_and_a_description(tmp_path, root):
    result = batch(tmp_path, root)
    assert result.exit_code == 0, result.output
    out = root / "derivatives" / "medseg"
    masks = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert masks == [
        f"{STEM}.nii.gz",
        f"{STEM}.nii.gz".replace("T1w", "T2w"),
        "sub-02/ses-a/anat/sub-02_ses-a_acq-hi_space-T1w_desc-medseg_dseg.nii.gz",
    ]
    assert labels_in(out / masks[0]).shape == phantom().shape
    assert [path for path in files_below(out) if path.startswith(STEM)] == [
        STEM,
        f"{STEM}.json",
        f"{STEM}.nii.gz",
        f"{STEM}.tsv",
        f"{STEM}/preview.png",
        f"{STEM}/run.json",
        f"{STEM}/statistics.json",
    ]
    rows = list(csv.DictReader((out / f"{STEM}.tsv").open(), delimiter="\t"))
    assert {int(row["index"]): row["name"] for row in rows} == LABELS
    about = json.loads((out / f"{STEM}.json").read_text())
    assert about["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert "tiny 1.0.0" in about["GeneratedBy"][0]["Description"]
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "medseg")
    assert description["SourceDatasets"] == [{"URL": "../.."}]
    assert (out / description["DatasetLinks"]["raw"]).resolve() == root.resolve()
    assert is_dataset(out)


def test_group_table_and_subject_pages_hold_the_volumes_of_statistics(tmp_path, root):
    batch(tmp_path, root, "--no-preview")
    out = root / "derivatives" / "medseg"
    rows = list(csv.DictReader((out / "group_dseg.tsv").open(), delimiter="\t"))
    assert len(rows) == 3 * len(LABELS)
    assert {(row["participant_id"], row["session_id"]) for row in rows} == {("sub-01", "n/a"), ("sub-02", "ses-a")}
    statistics = json.loads((out / STEM / "statistics.json").read_text())["labels"]
    mine = [row for row in rows if row["mask"] == f"{STEM}.nii.gz"]
    assert [int(row["voxels"]) for row in mine] == [label["voxels"] for label in statistics]
    page = (out / "sub-01.html").read_text()
    for label in statistics:
        assert f"<td>{label['name']}<td>{label['volume_ml']:.3f}" in page
    assert "sub-02" not in page


def test_second_run_finds_all_done_and_a_missing_sidecar_is_made_again(tmp_path, root):
    batch(tmp_path, root)
    assert json.loads(batch(tmp_path, root, "--json").stdout)["unchanged"] == 3
    out = root / "derivatives" / "medseg"
    (out / f"{STEM}.tsv").unlink()
    assert json.loads(batch(tmp_path, root, "--json").stdout)["done"] == 1
    assert (out / f"{STEM}.tsv").exists()


def test_dataset_without_scans_and_output_types_other_than_nifti_are_refused(tmp_path, root):
    assert batch(tmp_path, root, "--output-type", "dicom-seg").exit_code == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "dataset_description.json").write_text('{"BIDSVersion": "1.8.0"}')
    assert batch(tmp_path, empty).exit_code == 3
    (empty / "dataset_description.json").write_text("[]")
    assert not is_dataset(empty)
