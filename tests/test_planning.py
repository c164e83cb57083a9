import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from medseg.cli import main
from medseg.config import Windows
from medseg.errors import ConfigError, ResourceError
from medseg.geometry import Geometry
from medseg.model import load_model
from medseg.planning import _ways, fit
from medseg.resources import megabytes
from medseg.volume import Volume
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


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of so many features that the planes which wait take most of the memory, and a scan."""
    folder = tmp_path_factory.mktemp("wide")
    labels = [{"index": n, "name": f"label {n}"} for n in range(1, 120)]
    save_tiny_model(
        folder / "model",
        labels={"labels": labels},
        network={"architecture": "unet", "settings": {"channels": [118], "kernel_size": 1, "norm": "none"}},
        windows={"size": [32, 32, 32], "overlap": 0.5},
    )
    array = np.random.default_rng(0).integers(0, 300, (1, 150, 150, 60)).astype(np.int16)
    return load_model(folder / "model"), Volume(array, Geometry(array.shape[1:], np.eye(4)))


def test_a_scan_that_is_too_large_is_made_to_fit_by_sums_in_a_file_before_anything_that_changes_labels(wide):
    model, volume = wide
    roomy = fit(volume, model, 1e6)
    assert (roomy.windows, roomy.spill) == (model.windows, False)
    assert roomy.plan.ring_mib > 100
    tight = fit(volume, model, roomy.plan.peak_memory_mib - 10)
    assert (tight.windows, tight.spill) == (model.windows, True)
    assert tight.plan.peak_memory_mib < roomy.plan.peak_memory_mib - 10


def test_a_scan_that_cannot_be_made_to_fit_is_refused(wide):
    with pytest.raises(ResourceError, match="at least, more than the 100 MiB"):
        fit(wide[1], wide[0], 100)


def test_windows_become_narrower_by_steps_until_they_are_as_narrow_as_windows_get():
    ways = list(_ways(Windows(size=(96, 80, 1))))
    assert [(way.size, spill) for way, spill in ways] == [
        ((96, 80, 1), False),
        ((96, 80, 1), True),
        ((48, 32, 1), True),
        ((32, 32, 1), True),
    ]


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
