"""The commands on DICOM: what inspect tells of it, and what predict takes of a study."""

import json

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import UID

from tests.dicom_files import NORMAL, ORIGIN, PATIENT, STEP, make, save, series
from tests.test_cli import medseg_command, refused
from tests.tiny import save_tiny_model


@pytest.fixture
def gapped(tmp_path):
    places = [(ORIGIN + n * STEP * NORMAL).tolist() for n in (0, 1, 3, 4)]
    return save(tmp_path / "ct", *(make(k, ImagePositionPatient=place) for k, place in enumerate(places)))


def test_inspect_shows_no_identifiers_unless_they_are_to_be_kept(tmp_path):
    folder = series(tmp_path / "ct", SeriesDescription=f"abdomen of {PATIENT}")
    for arguments in ((), ("--json",)):
        hidden = medseg_command("inspect", folder, *arguments).output
        assert PATIENT not in hidden
        assert "1.2.3.4" not in hidden
        kept = medseg_command("inspect", folder, "--keep-identifiers", *arguments).output
        assert f"abdomen of {PATIENT}" in kept


def test_inspect_tells_which_candidates_predict_takes_and_why(tmp_path):
    folder = series(tmp_path / "ct")
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(folder / "thumbnail.png")
    text = medseg_command("inspect", folder).stdout
    assert "predict: takes it, the only candidate" in text
    assert "predict: leaves it out: a picture, and there is another candidate" in text
    content = json.loads(medseg_command("inspect", folder, "--json").stdout)
    assert [(one["format"], one["taken"]) for one in content["series"]] == [("dicom", True), ("picture", False)]


def test_inspect_tells_repairs_or_refuses_them(gapped):
    assert "1 slice(s) missing, 8 mm after" in medseg_command("inspect", gapped).stdout
    strict = medseg_command("inspect", gapped, "--geometry", "strict")
    assert strict.exit_code == 3
    assert "not a regular stack, and --geometry strict" in strict.stdout


def test_predict_refuses_to_repair_if_told_so_and_records_what_it_repaired(gapped, tmp_path):
    model = tmp_path / "model"
    save_tiny_model(model)
    refused(
        medseg_command("predict", gapped, "--model", model, "--geometry", "strict", "-o", tmp_path / "out"),
        4,
        "not a regular stack",
    )
    assert not (tmp_path / "out").exists()
    assert medseg_command("predict", gapped, "--model", model, "-o", tmp_path / "out").exit_code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "missing-slices" in [finding["code"] for finding in record["findings"]]
    assert record["settings"]["geometry"] == "repair"
    assert PATIENT not in json.dumps(record)


def test_predict_leaves_out_the_localizer_of_a_study(tmp_path):
    model = tmp_path / "model"
    save_tiny_model(model)
    study = tmp_path / "study"
    study.mkdir()
    series(study / "scan")
    localizer = [
        make(
            k,
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            SeriesInstanceUID=UID("1.7"),
            SOPInstanceUID=UID(f"1.7.{k}"),
        )
        for k in range(2)
    ]
    save(study / "scout", *localizer)
    result = medseg_command("predict", study, "--model", model, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert [case["name"] for case in json.loads(result.stdout.splitlines()[-1])["cases"]] == ["scan"]


def test_names_of_results_and_the_record_do_not_tell_who_the_patient_is_unless_that_is_wanted(tmp_path):
    model = tmp_path / "model"
    save_tiny_model(model)
    study = tmp_path / "ward"
    study.mkdir()
    places = [(ORIGIN + n * STEP * NORMAL).tolist() for n in (0, 1, 3, 4)]
    slices = [make(k, ImagePositionPatient=place) for k, place in enumerate(places)]
    folder = save(study / "SECRETIVE_ct", *slices)
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"secretive-{path.name}"))
    assert medseg_command("predict", study, "--model", model, "-o", tmp_path / "out").exit_code == 0
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in written)
    for path in written:
        assert "secretive" not in path.name.lower()
        if path.suffix == ".json":
            assert "secretive" not in path.read_text().lower()
    (mask,) = (tmp_path / "out").glob("*_ct_seg.nii.gz")
    patient = json.loads(medseg_command("inspect", study, "--json").stdout)["series"][0]["owner"][0]
    assert mask.name == f"{patient}_ct_seg.nii.gz"
    kept = medseg_command("predict", study, "--model", model, "-o", tmp_path / "kept", "--keep-identifiers")
    assert kept.exit_code == 0
    assert (tmp_path / "kept" / "SECRETIVE_ct_seg.nii.gz").is_file()
