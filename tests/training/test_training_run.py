"""Whole training runs on small phantoms."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medseg.config import TrainConfig, load_config
from medseg.errors import ConfigError
from medseg.formats import read
from medseg.geometry import Geometry
from medseg.model import load_model
from medseg.pipeline import segment
from medseg.training import train
from medseg.volume import Volume

KILLED_IN_THE_THIRD_EPOCH = """
import os, signal, sys
from pathlib import Path
import torch
from medseg.training import train
from medseg.volume import Volume
from medseg.training.module import SegmentationModule

step = SegmentationModule.training_step
def dying_step(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (2, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

SegmentationModule.training_step = dying_step
torch.set_num_threads(int(sys.argv[3]))  # sums of several threads differ in the last bit from those of one
train(Path(sys.argv[1]), output=Path(sys.argv[2]), device="cpu", progress=False)
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor that training depends on: averaged and current weights, and the optimiser's moments."""
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    moments = checkpoint["optimizer_states"][0]["state"]
    return (
        {f"averaged {name}": value for name, value in checkpoint["state_dict"].items()}
        | {f"current {name}": value for name, value in checkpoint["current_model_state"].items()}
        | {f"moment {n} {name}": value for n, of_one in moments.items() for name, value in of_one.items()}
    )


def assert_same_state(one: Path, other: Path) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def synthetic(config_file: Path, decathlon: Path) -> None:
    """Let a run make its images from the label maps instead of reading them."""
    content = yaml.safe_load(config_file.read_text())
    content["data"]["root"] = str(decathlon / "labelsTr")
    content["preparation"] = {"spacing_mm": [1, 1, 1], "intensity": {"kind": "percentiles"}}
    content["windows"] = {"size": [56, 56, 56]}
    content["training"] |= {"workers": 1, "synthesis": {"contrasts": 1, "slice_mm": 2}}
    config_file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("images", ["read", "synthetic"])
def test_run_killed_in_an_epoch_and_resumed_ends_in_the_weights_of_an_uninterrupted_one(
    config_file, decathlon, tmp_path, images
):
    if images == "synthetic":
        synthetic(config_file, decathlon)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    model = train(config_file, output=straight, device="cpu", progress=False)

    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", KILLED_IN_THE_THIRD_EPOCH, str(config_file), str(killed), threads]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -9
    assert len(rows(killed)) == 2
    assert not (killed / "model").exists()
    resumed = train(config_file, output=killed, resume=True, device="cpu", progress=False)

    assert_same_state(straight, killed)
    assert load_model(model).info.sha256 == load_model(resumed).info.sha256
    timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in rows(r)] for r in (straight, killed)]
    assert timeless[0] == timeless[1]


def test_number_of_loading_workers_does_not_change_the_weights(config_file, tmp_path):
    content = yaml.safe_load(config_file.read_text())
    for workers in (0, 2):
        content["training"] |= {"workers": workers, "epochs": 2, "samples_per_case": 2}
        config_file.write_text(yaml.safe_dump(content))
        train(config_file, output=tmp_path / f"{workers} workers", device="cpu", progress=False)
    assert_same_state(tmp_path / "0 workers", tmp_path / "2 workers")


def test_training_teaches_the_network_and_the_card_tells_what_prediction_gives(config_file, decathlon, tmp_path):
    content = yaml.safe_load(config_file.read_text())
    content["training"] |= {"epochs": 20, "samples_per_case": 4, "ema_decay": 0.8}
    content["card"]["tried_on"] = {"another scan": "imagesTr/case_1.nii.gz", "a lost one": "imagesTr/lost.nii.gz"}
    config_file.write_text(yaml.safe_dump(content))
    folder = train(config_file, output=tmp_path / "run", device="cpu", progress=False)

    model = load_model(folder)
    figures = model.info.metrics
    assert set(figures["validation_dice_per_case"]) == {"case_0", "case_3"}
    assert min(label["mean"] for label in figures["validation_dice"].values()) > 0.8

    volume = read(decathlon / "imagesTr/case_3.nii.gz")
    reference = read(decathlon / "labelsTr/case_3.nii.gz").array[0]
    predicted = segment(volume, model).array
    dice = 2 * ((predicted == 2) & (reference == 2)).sum() / ((predicted == 2).sum() + (reference == 2).sum())
    assert figures["validation_dice_per_case"]["case_3"]["right"] == pytest.approx(dice, abs=1e-4)

    assert 0 <= figures["expected_calibration_error"] < 0.5
    assert figures["behaviour"]["a held-out scan, as it is"].startswith("mean Dice 0.")
    assert figures["behaviour"]["another scan"].endswith("% of the voxels labelled")
    assert figures["behaviour"]["a lost one"] == "not tried: there is no such file"
    assert len(figures["behaviour"]) == 8
    assert model.info.seen is not None
    assert model.info.doubts(volume) == ()
    assert "has voxels of 9 × 9 × 9 mm" in " ".join(
        model.info.doubts(Volume(volume.array, Geometry(volume.geometry.shape, np.diag([9.0, 9, 9, 1]))))
    )

    card = (folder / "docs/README.md").read_text()
    assert all(what in card for what in figures["behaviour"])
    assert "case_0, case_3" in card
    assert f"| right | {figures['validation_dice']['right']['mean']:.3f} ±" in card
    assert str(tmp_path) not in card
    assert (folder / "docs/log.csv").read_text() == (tmp_path / "run/log.csv").read_text()
    assert load_config(folder / "docs/train.yaml", TrainConfig).training.epochs == 20
    assert str(tmp_path) not in (tmp_path / "run/config.yaml").read_text()


def test_shipped_weights_are_the_averaged_ones_of_the_last_epoch(config_file, tmp_path):
    folder = train(config_file, output=tmp_path / "run", epochs=2, device="cpu", progress=False)
    trained = state(tmp_path / "run")
    shipped = load_model(folder).network.state_dict()
    assert all(torch.equal(value, trained[f"averaged network.{name}"]) for name, value in shipped.items())
    assert any(not torch.equal(value, trained[f"current network.{name}"]) for name, value in shipped.items())


def test_2d_network_with_neighbour_slices_is_trained_on_slices(config_file, tmp_path):
    content = yaml.safe_load(config_file.read_text())
    content["network"] |= {"spatial_dims": 2}
    content["windows"] = {"size": [16, 1, 16], "context": 1}
    content["training"] |= {"epochs": 1, "patch": [16, 1, 16], "samples_per_case": 4, "validate_every": 1}
    config_file.write_text(yaml.safe_dump(content))
    train(config_file, output=tmp_path / "run", device="cpu", progress=False)
    assert np.isfinite(float(rows(tmp_path / "run")[0]["dice"]))


def test_output_folder_with_a_run_is_refused_without_resume(config_file, tmp_path):
    run = tmp_path / "run"
    train(config_file, output=run, epochs=1, device="cpu", progress=False)
    with pytest.raises(ConfigError, match=r"already holds a training run.*--resume"):
        train(config_file, output=run, epochs=1, device="cpu", progress=False)
    with pytest.raises(ConfigError, match="another 'training' section"):
        train(config_file, output=run, epochs=2, resume=True, device="cpu", progress=False)


def test_output_folder_of_a_run_that_never_trained_can_be_used_again(config_file, decathlon, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="does not exist"):
        train(config_file, output=run, root=tmp_path / "mistyped", epochs=1, device="cpu", progress=False)
    assert train(config_file, output=run, root=decathlon, epochs=1, device="cpu", progress=False).is_dir()


def test_resuming_a_finished_run_gives_the_same_model_again(config_file, tmp_path):
    run = tmp_path / "run"
    before = load_model(train(config_file, output=run, epochs=1, device="cpu", progress=False)).info
    after = load_model(train(config_file, output=run, epochs=1, resume=True, device="cpu", progress=False)).info
    assert after.sha256 == before.sha256
    assert after.metrics == before.metrics


def test_device_that_is_not_there_is_one_line(config_file, tmp_path):
    with pytest.raises(ConfigError, match="Device tpu: not available"):
        train(config_file, output=tmp_path / "run", device="tpu", progress=False)


def test_words_of_the_card_may_change_in_a_run_that_goes_on(config_file, tmp_path):
    train(config_file, output=tmp_path / "run", epochs=1, device="cpu", progress=False)
    content = yaml.safe_load(config_file.read_text())
    content["card"]["limits"] = "Balls, and nothing but balls."
    content["accepts"] = {"by_name_only": True}
    config_file.write_text(yaml.safe_dump(content))
    folder = train(config_file, output=tmp_path / "run", epochs=1, resume=True, device="cpu", progress=False)
    assert "nothing but balls" in (folder / "docs/README.md").read_text()
    assert load_model(folder).info.accepts.by_name_only
