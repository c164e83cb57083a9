"""What is left of a batch when processes are killed in the middle of it, and when several do it at once.

python -m tests.benchmarks.durability [-n STUDIES] [SCENARIO ...]

A run of `reprocess-studies` is killed as `kill -9` does while the last of a third of its studies is in hand; what was
killed is started again, and the run is submitted once more. Prints a table of Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medseg.cases import plan_tree
from medseg.config import PredictConfig
from medseg.inputs import find_inputs
from medseg.ledger import RECORD, read_record
from medseg.triage import Action, Triage
from tests.flows.installation import Installation
from tests.tiny import files_below, phantom, save_scan, save_tiny_model

RUN_S = 900
DEPLOY = "prefect --no-prompt deploy --all --prefect-file tests/flows/counted.yaml"
BATCH = "from tests.flows import counted; from medseg.cli import main; main()"  # `medseg batch`, with starts counted

Kill = Callable[[Installation], None]


def flow_process(one: Installation) -> None:
    one.kill_flows()


def worker(one: Installation) -> None:
    one.kill("worker")


def server(one: Installation) -> None:
    one.kill("server")


def all_three(one: Installation) -> None:
    for kill in (server, worker, flow_process):
        kill(one)


KILLED: dict[str, Kill] = {"flow": flow_process, "worker": worker, "server": server, "all": all_three}


class Row(NamedTuple):
    """What came of a scenario; `runs` are those of Prefect's that are told about."""

    what: str
    runs: list[str]
    whole: str
    records: int
    starts: str
    parts: int


class Bench:
    """An installation of Prefect and a folder of studies, each of which is told by its brightest voxel."""

    def __init__(self, one: Installation, studies: int) -> None:
        self.one, self.studies = one, studies
        self.scans = one.folder / "in"
        self.starts = Path(one.env["MEDSEG_TEST_STARTS"])
        save_tiny_model(one.folder / "tiny")
        self.settings = PredictConfig(model=str(one.folder / "tiny"), device="cpu", preview=False)
        for number in range(studies):
            save_scan(self.scans / f"{number:03d}.nii.gz", phantom() + number)
        self.number = 0

    def fresh(self) -> None:
        self.number += 1
        self.out = self.one.folder / f"out{self.number}"
        self.starts.write_bytes(b"")

    def submit(self) -> str:
        request = {"root": str(self.scans), "output": str(self.out), "settings": self.settings.model_dump()}
        return self.one.run("reprocess-studies/counted", **request)

    def started(self) -> list[str]:
        return [line.split()[1] for line in self.starts.read_text().splitlines()]

    def killed(self, name: str) -> Row:
        """A run in which something was killed while one study was in hand, and the one after it."""
        self.fresh()
        hold = self.starts.with_suffix(".hold")
        hold.write_text(str(self.studies // 3))
        first = self.submit()
        self.one.wait(lambda: len(self.started()) >= self.studies // 3, RUN_S, lambda: self.one.log("worker"))
        KILLED[name](self.one)
        hold.unlink()
        if "server" not in self.one.processes:
            self.one.start_server()
        if "worker" not in self.one.processes:
            self.one.start_worker()
        second = self.submit()
        assert self.one.ended(second, RUN_S) == "COMPLETED", self.one.log("worker")
        self.one.wait(lambda: not self.one.flow_processes(), RUN_S, lambda: "the processes of flows to end")
        # Where nobody is left to say that the first ended, the automation of flows.heartbeats does.
        return self.row(f"kill -9 of {name.replace('all', 'flow, worker and server')} in the middle", [first])

    def at_once(self, workers: int) -> Row:
        """As many runs as workers, all over the same folder."""
        self.fresh()
        names = [f"worker{number}" for number in range(1, workers)]
        for name in names:
            self.one.start_worker(name)
        runs = [self.submit() for _ in range(workers)]
        self.one.all_ended(runs, RUN_S)
        for name in names:
            self.one.kill(name)
        return self.row(f"{workers} workers at once", runs)

    def batches(self, count: int) -> Row:
        """`medseg batch` several times at once."""
        self.fresh()
        words = [sys.executable, "-c", BATCH, "batch", str(self.scans), str(self.out), "--no-preview", "--quiet"]
        words += ["--model", str(self.one.folder / "tiny"), "--device", "cpu"]
        processes = [subprocess.Popen(words, env=self.one.env) for _ in range(count)]
        assert [process.wait(RUN_S) for process in processes] == [0] * count
        return self.row(f"{count} × medseg batch at once", [])

    def row(self, what: str, runs: list[str]) -> Row:
        cases = plan_tree(find_inputs([str(self.scans)], apart=False), self.scans, self.out)
        whole = sum(one.action is Action.SKIP for one in Triage(self.settings, verify=True).judge(cases))
        recorded = sum(read_record(path.parent) is not None for path in self.out.rglob(RECORD))
        parts = sum(".part" in name or name.endswith(".lock") for name in files_below(self.out))
        starts = Counter(self.started())
        twice = sum(count - 1 for count in starts.values())
        return Row(what, runs, f"{whole} of {self.studies}", recorded, f"{sum(starts.values())} ({twice})", parts)

    def told(self, row: Row) -> str:
        """A row as text, when the last of its runs has ended."""
        states = Counter(state.lower() for state in self.one.all_ended(row.runs, RUN_S)) if row.runs else Counter()
        state = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"| {row.what} | {state} | {row.whole} | {row.records} | {row.starts} | {row.parts} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=50, help="studies")
    scenarios = [*KILLED, "workers", "batches"]
    parser.add_argument("scenarios", nargs="*", choices=[*scenarios, []], default=scenarios)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        env = {"MEDSEG_TEST_STARTS": f"{name}/starts", "MEDSEG_TEST_SECONDS": "0.1"}
        with Installation(Path(name), PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30", **env) as one:
            bench = Bench(one, wanted.n)
            if {*KILLED, "workers"} & {*wanted.scenarios}:
                one.start_server()
                one.do("prefect work-pool create medseg-cpu --type process")
                one.do(DEPLOY)
                one.do("python -m flows.heartbeats")
                one.start_worker()
            rows = []
            for scenario in wanted.scenarios:
                began = time.monotonic()
                done = {"batches": lambda: bench.batches(2), "workers": lambda: bench.at_once(4)}
                rows.append(done.get(scenario, lambda kill=scenario: bench.killed(kill))())
                print(f"{scenario}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            print("| what happened | runs in Prefect | whole | records | starts (again) | partial files |")
            print("|---|---|---|---|---|---|")
            for row in rows:
                print(bench.told(row), flush=True)


if __name__ == "__main__":
    main()
