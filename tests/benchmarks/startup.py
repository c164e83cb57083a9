"""CPU seconds until `medseg --help` has answered, and of `medseg predict` on a tiny scan with a tiny model.

python -m tests.benchmarks.startup [RUNS]

The first beside those of an empty Python program, the second beside importing torch and loading the same weights.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from medseg.bundle import WEIGHTS
from tests.tiny import save_scan, save_tiny_model

LIMIT_S = 0.5
PREDICT_LIMIT_S = 1.0
LOAD = "import sys, torch; from safetensors.torch import load_file; load_file(sys.argv[1])"


ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds(*arguments: str) -> float:
    """User and system time of one run, its children included."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    cpu_seconds("-m", "medseg", "--help")  # writes the byte code
    empty = statistics.median(cpu_seconds("-c", "pass") for _ in range(runs))
    answer = statistics.median(cpu_seconds("-m", "medseg", "--help") for _ in range(runs))
    print(f"python -c pass  {empty:.3f} s of CPU (median of {runs})")
    print(f"medseg --help   {answer:.3f} s of CPU (limit {LIMIT_S} s)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model(folder / "model")
        scan = save_scan(folder / "scan.nii.gz")
        weights = str(folder / "model" / WEIGHTS)
        arguments = ["-m", "medseg", "predict", str(scan), "--model", str(folder / "model"), "--quiet", "-o"]
        cpu_seconds(*arguments, str(folder / "first"))
        load = statistics.median(cpu_seconds("-c", LOAD, weights) for _ in range(runs))
        done = statistics.median(cpu_seconds(*arguments, str(folder / f"out{n}")) for n in range(runs))
    rest = done - load
    print(f"torch, weights  {load:.2f} s of CPU")
    print(f"medseg predict  {done:.2f} s of CPU, {rest:.2f} s beside them (limit {PREDICT_LIMIT_S} s)")
    sys.exit(answer > LIMIT_S or rest > PREDICT_LIMIT_S)


if __name__ == "__main__":
    main()
