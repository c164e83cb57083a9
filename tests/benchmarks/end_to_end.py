"""File to file: medseg beside MONAI, nnU-Net v2 and the floor (read, bare forward of the same windows, write).

python -m tests.benchmarks.end_to_end [--cases tiny-2-M ...] [--only medseg floor ...] [--repeats N] [--cpu]
    [--resume] [--readme]

medseg-bfloat16 is medseg with --precision bfloat16 --body-only. Each system runs in a process of its own, in turns; a
figure is the least of the repeats. The peers are installed from PyPI into a virtual environment of the benchmark's own
in the folder WORK. The time is that of the work, without imports and without making the network. "forward" is the time
in the network alone, which for medseg leaves out a last layer that is put off; "beside" is the rest. "peak" is the
resident memory of the process and its children.

With --cpu the seconds are those of the processor, which a machine that does other work hardly changes: they are
comparable on one thread (OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1). Figures are kept in WORK, by clock and threads;
--resume measures what is missing, and the table has all that was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.benchmarks.end_to_end_cases import NETWORKS, SCANS, save_phantom

ROOT = Path(__file__).parents[2]
OURS = ("medseg", "medseg-bfloat16", "floor")
PEERS = ("monai", "monai-labels-first", "nnunet", "nnunet-torch")
ALL = (*OURS, *PEERS)
PEER_PACKAGES = ("torch", "monai", "nibabel", "jaxtyping", "scikit-learn")
CASES = ("tiny-2-M", "tiny-25-L", "tiny-100-M", "tiny-100-D", "unet-25-M", "slices-2-M")
BEGIN, END = "<!-- end-to-end -->", "<!-- /end-to-end -->"
HEADER = ("case", "system", "seconds", "forward", "beside", "peak GB", "× medseg")


class Case(NamedTuple):
    """A network, its number of classes, and a scan."""

    network: str
    classes: int
    scan: str

    @classmethod
    def named(cls, name: str) -> Case:
        network, classes, scan = name.split("-")
        if network not in NETWORKS or scan not in SCANS:
            raise SystemExit(f"{name}: networks are {', '.join(NETWORKS)}, scans {', '.join(SCANS)}.")
        return cls(network, int(classes), scan)

    def __str__(self) -> str:
        return f"{self.network}, {self.classes}, {self.scan}"


def peer_python(work: Path) -> str:
    """The interpreter of the peers' environment, which is made if it is not there."""
    folder = work / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
        packages = [f"{name}=={pins[name]}" for name in PEER_PACKAGES]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages, "nnunetv2"], check=True)
        (folder / "ready").touch()
    return str(python)


def run(case: Case, system: str, *, python: str, scan: Path, work: Path, clock: str) -> dict[str, Any] | None:
    """The figures of one run; None if it failed, whose last line of stderr is shown."""
    output = work / "out" / f"{system}.nii.gz"  # MONAI gives its output the scan's name
    output.parent.mkdir(exist_ok=True)
    arguments = [python, "-m", "tests.benchmarks.end_to_end_run", clock, system, case.network, str(case.classes)]
    done = subprocess.run(
        [*arguments, str(scan), str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{case}: {system} ended with {done.returncode}: {(done.stderr.splitlines() or ['killed'])[-1]}")
        return None
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Found:
    """The quickest figures of every case and system, kept in a file.

    Args:
        path: The file.
        resume: Whether to go on from what it holds.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if not resume:
            path.unlink(missing_ok=True)

    @property
    def cases(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Figures by case and system."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, case: str, system: str, figures: dict[str, Any]) -> None:
        """Keep them if they are better than what there is."""
        cases = self.cases  # another run may have added to them
        known = cases.setdefault(case, {})
        if system not in known or figures["total"] < known[system]["total"]:
            known[system] = figures
            self.path.write_text(json.dumps(cases, indent=1))
            stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in figures["stages"].items())
            print(f"{case}: {system}: {stages}; import {figures['import']:.1f} s", flush=True)


def scan_of(case: Case, work: Path) -> Path:
    """The file of a case's scan, which is made if it is not there."""
    scan = work / f"{case.scan}-{case.classes}.nii.gz"
    if not scan.exists():
        save_phantom(scan, SCANS[case.scan], case.classes)
    return scan


def measure(name: str, found: Found, *, systems: list[str], repeats: int, work: Path, clock: str) -> None:
    """Run the systems in turns, but for those that are known."""
    case = Case.named(name)
    scan = scan_of(case, work)
    unknown = [system for system in systems if system not in found.cases.get(name, {})]
    for _ in range(repeats):
        for system in unknown:
            if case.network == "slices" and system.startswith("nnunet"):
                continue
            python = sys.executable if system in OURS else peer_python(work)
            if figures := run(case, system, python=python, scan=scan, work=work, clock=clock):
                found.add(name, system, figures)


def rows(case: Case, found: dict[str, dict[str, Any]], wanted: Sequence[str]) -> list[list[str]]:
    ours = found.get("medseg")
    return [
        [
            str(case),
            system,
            f"{figures['total']:.1f}",
            f"{figures['forward']:.1f}",
            f"{figures['total'] - figures['forward']:.1f}",
            f"{figures['peak'] / 1e9:.2f}",
            f"{figures['total'] / ours['total']:.2f}" if ours else "",
        ]
        for system, figures in sorted(found.items(), key=lambda one: ALL.index(one[0]))
        if system in wanted
    ]


def table(lines: list[list[str]]) -> str:
    cells = [HEADER, ["---"] * len(HEADER), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def write_readme(text: str) -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="NETWORK-CLASSES-SCAN")
    parser.add_argument("--only", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medseg-end-to-end")
    parser.add_argument("--cpu", action="store_true", help="Seconds of the processor instead of wall time.")
    parser.add_argument("--resume", action="store_true", help="Keep the figures in WORK, measure what is missing.")
    parser.add_argument("--readme", action="store_true", help="Put the table into README.md.")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    clock, threads = ("cpu" if arguments.cpu else "wall"), torch.get_num_threads()
    store = arguments.work / f"figures-{clock}-{threads}.json"
    found = Found(store, resume=arguments.resume)
    for name in arguments.cases:
        how = {"systems": arguments.only, "repeats": arguments.repeats, "work": arguments.work, "clock": clock}
        measure(name, found, **how)
    lines = [
        line for name in arguments.cases for line in rows(Case.named(name), found.cases.get(name, {}), arguments.only)
    ]
    about = f"{'CPU' if arguments.cpu else 'wall'} seconds, {threads} thread{'s' if threads > 1 else ''}"
    text = f"{table(lines)}\n\n{about}"
    print(text)
    if arguments.readme:
        write_readme(text)


if __name__ == "__main__":
    main()
