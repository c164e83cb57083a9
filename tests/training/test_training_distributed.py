"""Several processes that train one network together: two on the CPU, over gloo."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from medseg.errors import ConfigError
from medseg.model import load_model
from medseg.training import hardware, train
from medseg.training.dataset import EpochSampler

ROOT = Path(__file__).parents[2]


def test_processes_share_the_patches_of_an_epoch_and_none_is_drawn_twice(monkeypatch):
    whole = list(EpochSampler(11, seed=3))
    monkeypatch.setattr(hardware, "processes", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(hardware, "rank", lambda rank=rank: rank)
        shares.append(list(EpochSampler(11, seed=3)))
    assert [len(share) for share in shares] == [5, 5]  # of one length, or they would wait for one another
    assert [key for pair in zip(*shares, strict=True) for key in pair] == whole[:10]


def test_two_processes_train_one_model_in_the_steps_of_one(config_file, tmp_path):
    content = yaml.safe_load(config_file.read_text())
    content["training"] |= {"epochs": 2, "samples_per_case": 2}
    config_file.write_text(yaml.safe_dump(content))
    output = tmp_path / "shared"
    command = [sys.executable, "-m", "medseg", "train", str(config_file), "-o", str(output), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--devices", "2"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (output / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps_of_one = 2 * 4 // 2  # samples of the 4 cases in batches of 2
    assert [int(row["steps"]) for row in rows] == [steps_of_one, 2 * steps_of_one]
    assert float(rows[-1]["dice"]) >= 0
    model = load_model(output / "model")
    assert all(torch.isfinite(value).all() for value in model.network.state_dict().values())
    assert set(model.info.metrics["validation_dice_per_case"]) == {"case_0", "case_3"}
    assert "2 processes" in model.info.metrics["hardware"]
    assert done.stdout.splitlines() == [str(output / "model")]


def test_batch_that_the_devices_cannot_share_is_refused(config_file, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size is 2, which 3 devices cannot share"):
        train(config_file, output=tmp_path / "run", device="cpu", devices=3, progress=False)
