import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

import medseg.case
from medseg.case import Predictor
from medseg.cases import plan_cases
from medseg.config import PredictConfig
from medseg.inputs import find_inputs
from medseg.ledger import read_record
from medseg.locks import exclusive
from tests.tiny import save_scan, save_tiny_model


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_lock_is_held_by_one_process_and_free_when_it_is_killed(tmp_path):
    lock = tmp_path / "gpu.lock"
    held = (
        "import sys, time; from pathlib import Path; from medseg.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", held, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_held(lock)
        process.kill()
    assert not is_held(lock)
    lock.chmod(0o444)  # as the file of another user is
    with exclusive(lock):
        assert is_held(lock)


@pytest.mark.parametrize("gpu", ["some-gpu", None])
def test_gpu_is_had_alone_while_a_scan_is_segmented_and_other_devices_at_once(tmp_path, monkeypatch, gpu):
    monkeypatch.setattr("medseg.turns._gpu", lambda device: gpu)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock, held, segment = tmp_path / "medseg-gpu-some-gpu.lock", [], medseg.case.segment
    monkeypatch.setattr(
        medseg.case, "segment", lambda *a, **k: held.append(lock.exists() and is_held(lock)) or segment(*a, **k)
    )
    save_tiny_model(tmp_path / "tiny")
    scan = save_scan(tmp_path / "scan.nii.gz")
    (case,) = plan_cases(find_inputs([str(scan)]), tmp_path / "out")
    Predictor(PredictConfig(model=str(tmp_path / "tiny")), device="cpu").run(case, progress=lambda *_: None)
    assert held == [gpu is not None]
    assert ("wait" in [stage.name for stage in read_record(case.folder).stages]) == (gpu is not None)
    assert not (lock.exists() and is_held(lock))
