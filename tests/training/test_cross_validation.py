"""All folds in one command, and what they give together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from medseg.cli import main
from medseg.errors import ConfigError
from medseg.training import cross_validate


@pytest.fixture
def folds(config_file, tmp_path) -> Path:
    """A finished cross-validation of two folds."""
    content = yaml.safe_load(config_file.read_text())
    content["data"]["folds"] = 2
    config_file.write_text(yaml.safe_dump(content))
    command = [
        "train",
        str(config_file),
        "-o",
        str(tmp_path / "folds"),
        "--all-folds",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "left: Dice 0." in result.stdout
    return tmp_path / "folds"


def test_every_case_is_measured_once_by_a_model_that_did_not_see_it(folds, config_file):
    summary = json.loads((folds / "cross_validation.json").read_text())
    assert sorted(summary["dice_per_case"]) == [f"case_{n}" for n in range(6)]
    assert [row["fold"] for _, row in sorted(summary["dice_per_case"].items())] == [0, 1, 0, 1, 0, 1]
    values = [row["left"] for row in summary["dice_per_case"].values()]
    assert summary["dice"]["left"]["mean"] == pytest.approx(sum(values) / 6, abs=1e-4)
    assert summary["dice"]["left"]["cases"] == 6
    with (folds / "cross_validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], float(row["right"])) for row in rows] == [
        (name, row["right"]) for name, row in summary["dice_per_case"].items()
    ]


def test_finished_folds_are_left_alone_when_the_rest_goes_on(folds, config_file):
    weights = [folds / f"fold_{n}" / "model" / "models" / "model.safetensors" for n in (0, 1)]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in weights]
    (folds / "fold_1" / "model" / "configs" / "metadata.json").unlink()
    (folds / "fold_1" / "model").rename(folds / "fold_1" / "lost")
    cross_validate(config_file, output=folds, resume=True, epochs=1, device="cpu", progress=False)
    assert weights[0].stat().st_mtime_ns == before[0][0]
    assert weights[1].read_bytes() == before[1][1]


def test_named_validation_cases_and_one_fold_beside_all_are_refused(config_file, tmp_path):
    content = yaml.safe_load(config_file.read_text())
    content["data"]["validation"] = ["case_1"]
    config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="names the cases kept out"):
        cross_validate(config_file, output=tmp_path / "folds")
    result = CliRunner().invoke(main, ["train", str(config_file), "--all-folds", "--fold", "1"])
    assert result.exit_code == 2
    assert "not both" in result.output
