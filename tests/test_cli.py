"""The other commands, and what holds for all."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import medseg
from medseg.catalogue import architectures_text
from medseg.cli import main
from medseg.config import PredictConfig, load_config
from tests.commands import medseg_command, refused
from tests.tiny import files_below, phantom, save_scan

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "monai", "nibabel", "pydicom", "scipy", "pydantic", "rich", "prefect")


def test_evaluate_prints_a_table_json_and_writes_it(tmp_path, data):
    reference = next((data / "hippocampus" / "labelsTr").glob("*.nii.gz"))
    assert "1.0000" in medseg_command("evaluate", reference, reference).stdout
    result = medseg_command("evaluate", reference, reference, "--json", "-o", tmp_path / "out")
    assert json.loads(result.stdout)["mean"]["dice"] == 1
    assert files_below(tmp_path / "out") == ["metrics.csv", "report.html", "summary.json"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["foreground_mean"]["Dice"] == 1


def test_evaluate_refuses_other_grids_without_resample_with_4(tmp_path):
    one = save_scan(tmp_path / "one.nii.gz", (phantom() > 100).astype("uint8"))
    two = save_scan(tmp_path / "two.nii.gz", (phantom() > 100).astype("uint8"), spacing_mm=(1, 1, 2.2))
    refused(medseg_command("evaluate", one, two), 4, "--resample")
    assert medseg_command("evaluate", one, two, "--resample").exit_code == 0


def test_evaluate_reads_the_label_names_that_predict_wrote(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model)
    mask = tmp_path / "out" / "scan_seg.nii.gz"
    names = [row["name"] for row in json.loads(medseg_command("evaluate", mask, mask, "--json").stdout)["labels"]]
    assert names == ["dim", "bright"]


def test_inspect_tells_what_a_folder_holds(tmp_path, data):
    shutil.copytree(data / "ct_dicom", tmp_path / "ct")
    save_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "notes.txt").write_text("not a scan")
    result = medseg_command("inspect", tmp_path)
    assert result.exit_code == 0
    for part in ("(3 files)", "CT", "20 × 16 × 12", "notes.txt"):
        assert part in result.stdout
    content = json.loads(medseg_command("inspect", tmp_path, "--json").stdout)
    assert sorted(len(series["paths"]) for series in content["series"]) == [1, 3]


def test_inspect_ends_with_3_if_nothing_can_be_read(tmp_path):
    (tmp_path / "notes.txt").write_text("not a scan")
    result = medseg_command("inspect", tmp_path)
    refused(result, 3, "no scan here can be read")
    assert "notes.txt" in result.stdout


def test_models_lists_models_and_architectures_without_loading_weights(model, monkeypatch):
    monkeypatch.setattr("medseg.catalogue.shipped_models", lambda: {"tiny": model})
    monkeypatch.setattr("medseg.model.load_file", lambda path: pytest.fail("weights were loaded"))
    text = medseg_command("models").stdout
    for part in ("tiny 1.0.0", "MR, 3D, 5 to 100 mm an axis", "1 dim, 4 bright", "Apache-2.0", "unet"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
    content = json.loads(medseg_command("models", "--json").stdout)
    assert content["models"][0]["labels"] == {"1": "dim", "4": "bright"}
    assert "unet" in [entry["name"] for entry in content["architectures"]]


def test_architectures_are_a_table_of_eighty_columns_with_counts_fields_and_published_figures():
    content = json.loads(medseg_command("models", "--architectures", "--json").stdout)
    text = architectures_text(content)
    assert max(map(len, text.splitlines())) <= 80
    row = next(line.split() for line in text.splitlines() if line.startswith("deeplabv2 "))
    assert row == ["deeplabv2", "2016", "42.6", "5.5", "1411", "79.7", "arXiv", "1606.00915"]
    entries = content["architectures"]
    fcn = next(entry for entry in entries if entry["name"] == "fcn8s")
    assert (fcn["parameters_2d"], fcn["parameters_3d"]) == (134_270_278, 14_851_110)
    assert fcn["voc2012_test_miou"] == 62.2
    assert "models" not in content
    assert all(entry["receptive_field"] and entry["settings"] for entry in entries)


def test_train_passes_a_configuration_error_on_in_one_line(tmp_path):
    (tmp_path / "train.yaml").write_text("card: 3\n")
    refused(medseg_command("train", tmp_path / "train.yaml", "-o", tmp_path / "run"), 2, "train.yaml")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_help_fits_eighty_columns_and_names_the_exit_codes(command):
    result = medseg_command(*command, "--help")
    assert result.exit_code == 0
    assert "Exit codes: 0 done" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, medseg, medseg.cli\n"
        "try: medseg.cli.main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_public_names_are_there_and_misspelt_ones_are_not():
    assert set(dir(medseg)) >= {"inspect", "read", "write", "load_model", "segment", "evaluate", "__version__"}
    assert all(callable(getattr(medseg, name)) for name in medseg.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="segmnet"):
        _ = medseg.segmnet


def test_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert medseg_command("--version").stdout.split()[-1] == medseg.__version__ == project["version"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "predict").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_prediction_config_of_the_repository_is_valid(path):
    assert isinstance(load_config(path, PredictConfig), PredictConfig)


def test_crf_is_measured_before_and_after_by_evaluate(tmp_path, model):
    scan, truth = save_scan(tmp_path / "scan.nii.gz"), tmp_path / "plain" / "scan_seg.nii.gz"
    for folder, options in (("plain", ()), ("crf", ("--crf", "--largest-component", "--min-volume", "1"))):
        assert medseg_command("predict", scan, "-o", tmp_path / folder, "--model", model, *options).exit_code == 0
    refined = tmp_path / "crf" / "scan_seg.nii.gz"
    result = medseg_command("evaluate", truth, truth, "--versus", refined, "-o", tmp_path / "report")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "report" / "summary.json").read_text())["paired_comparison"]
    assert {"dice", "surface_dice"} <= {row["metric"] for row in rows}
    assert all(row["mean_second"] <= row["mean_first"] == 1 for row in rows if row["metric"] == "dice")
