import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from medseg.cli import main
from medseg.cli_plan import megabytes
from medseg.errors import ConfigError, ResourceError
from tests.tiny import save_scan, save_tiny_model

# Predicts in a process of its own, whose peak is compared with what was segmented there.
_RUN = """
import sys, torch
from medseg.bundle import read_info
from medseg.model import load_model
from medseg.pipeline import segment
from medseg.planning import plan
from medseg.resources import peak_memory_mib
import numpy as np
from medseg.geometry import Geometry
from medseg.volume import Volume
torch.set_num_threads(1)
model = load_model(sys.argv[1])
array = np.random.default_rng(0).integers(0, 300, (1, 200, 200, 60)).astype(np.int16)
volume = Volume(array, Geometry(array.shape[1:], np.diag([1.0, 1.0, 2.0, 1.0])))
predicted = plan(volume, model).peak_memory_mib
segment(volume, model)
print(predicted, peak_memory_mib())
"""


@pytest.mark.parametrize("size", [16, 64])
def test_memory_is_predicted_within_fifteen_per_cent(tmp_path, size):
    labels = [{"index": n, "name": f"label {n}"} for n in range(1, 30)]
    save_tiny_model(
        tmp_path / "model",
        labels={"labels": labels},
        preparation={"spacing_mm": [1.2, 1.2, 2.0], "intensity": {"kind": "window", "low": 0, "high": 300}},
        network={"architecture": "unet", "settings": {"channels": [8]}},
        windows={"size": [size] * 3, "overlap": 0},
    )
    arguments = [sys.executable, "-c", _RUN, str(tmp_path / "model")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    predicted, measured = map(float, done.stdout.split())
    assert predicted == pytest.approx(measured, rel=0.15)


def test_plan_command_tells_windows_seconds_and_memory(tmp_path):
    save_tiny_model(tmp_path / "model")
    scan = save_scan(tmp_path / "scan.nii.gz")
    arguments = ["plan", str(scan), "--model", str(tmp_path / "model"), "--json", "--device", "cpu"]
    done = CliRunner().invoke(main, arguments)
    told = json.loads(done.output)
    assert told["windows"] == 2 * 4 * 3 * 2  # mirrored along one axis
    assert set(told["seconds"]) == {"read", "prepare", "network"}
    assert told["ring_mib"] < told["peak_memory_mib"]


def test_scan_that_needs_more_memory_than_allowed_is_refused_before_it_runs(tmp_path):
    save_tiny_model(tmp_path / "model")
    scan = save_scan(tmp_path / "scan.nii.gz")
    arguments = ["plan", str(scan), "--model", str(tmp_path / "model"), "--max-memory", "10MB"]
    assert CliRunner().invoke(main, arguments).exit_code == ResourceError.exit_code


def test_sizes_are_read_as_people_write_them():
    assert megabytes("8GB") == pytest.approx(8e9 / 2**20)
    assert megabytes("0.5 GiB") == 512
    with pytest.raises(ConfigError, match="not a size"):
        megabytes("much")
