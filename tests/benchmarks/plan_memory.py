"""What `medseg plan` says of memory, beside what the run then takes.

python -m tests.benchmarks.plan_memory [NETWORK-CLASSES-SCAN ...] [--work FOLDER]

The cases are those of the end-to-end benchmark; plan and run are each a process of their own. Peaks are of the resident
memory, in GB; the bar is 15 %.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from medseg.formats import read, write
from medseg.pipeline import segment
from medseg.planning import plan
from tests.benchmarks.end_to_end import ROOT, Case, scan_of
from tests.benchmarks.end_to_end_cases import network_of
from tests.benchmarks.end_to_end_run import model_of

CASES = ("tiny-2-M", "tiny-25-M", "tiny-100-M", "tiny-25-L", "tiny-100-D", "unet-25-M", "slices-2-M")
BAR = 0.15


def peak_gb(step: str, name: str, scan: Path) -> float:
    """The peak that a process of its own plans or takes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.plan_memory", name, "--step", step, "--scan", str(scan)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def take(step: str, name: str, scan: Path) -> float:
    case = Case.named(name)
    model = model_of(network_of(case.network, case.classes), case.network, case.classes)
    volume = read(scan)
    if step == "plan":
        return plan(volume, model).peak_memory_mib * 2**20 / 1e9
    with tempfile.TemporaryDirectory() as folder:
        write(segment(volume, model), Path(folder, "labels.nii.gz"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="NETWORK-CLASSES-SCAN")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medseg-end-to-end")
    parser.add_argument("--step", choices=["plan", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(take(arguments.step, arguments.cases[0], arguments.scan))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases:
        scan = scan_of(Case.named(name), arguments.work)
        planned, taken = (peak_gb(step, name, scan) for step in ("plan", "run"))
        apart = planned / taken - 1
        print(f"{name:<12} plan {planned:.2f} GB, run {taken:.2f} GB: {apart:+.0%} (bar {BAR:.0%})", flush=True)


if __name__ == "__main__":
    main()
