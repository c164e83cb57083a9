"""Studies a minute through Prefect over PostgreSQL, with 1, 2 and 4 workers on this machine.

python -m tests.benchmarks.scaling [-n RUNS] [WORKERS ...]

Each run is one study of `segment-study`, in a process of its own, with a model so small that the overhead is all there
is; the last row has the same studies in one run of `reprocess-studies`. Prints a table of Markdown.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from medseg.config import PredictConfig
from medseg.ledger import RECORD, read_record
from tests.flows.installation import Installation
from tests.flows.postgresql import programs, running
from tests.tiny import phantom, save_scan, save_tiny_model

RUN_S = 280


def measured(one: Installation, runs: list[str]) -> float:
    """Seconds until all runs are completed."""
    began = time.monotonic()
    states = set(one.all_ended(runs, RUN_S))
    assert states == {"COMPLETED"}, f"{states}: {one.log('worker1')}"
    return time.monotonic() - began


def start_workers(one: Installation, count: int) -> None:
    """Start workers that do one run at a time, and wait until they look for work."""
    names = [f"worker{number + 1}" for number in range(count)]
    for name in names:
        (one.folder / f"{name}.log").unlink(missing_ok=True)
        one.start(name, "prefect worker start --pool medseg-cpu --limit 1")
    one.wait(lambda: all("started!" in one.log(name) for name in names), RUN_S, lambda: one.log(names[-1]))


def measure(one: Installation, studies: int, workers: list[int]) -> None:
    """Print the table's rows."""
    save_tiny_model(one.folder / "tiny")
    settings = PredictConfig(model=str(one.folder / "tiny"), device="cpu", preview=False).model_dump()
    for number in range(studies):
        save_scan(one.scans / f"{number:03d}.nii.gz", phantom() + number)
    for count in workers:
        output = one.folder / f"out{count}"
        start_workers(one, count)
        runs = [
            one.run("segment-study/local", study=str(scan), output=str(output), settings=settings)
            for scan in sorted(one.scans.iterdir())
        ]
        seconds = measured(one, runs)
        for number in range(count):
            one.kill(f"worker{number + 1}")
        show(f"{count} workers, a run for each study", count, seconds, of_medseg(output, studies))
    output = one.folder / "chunk"
    start_workers(one, 1)
    run = one.run("reprocess-studies/nightly", root=str(one.scans), output=str(output), settings=settings)
    show("1 worker, one run for all", 1, measured(one, [run]), of_medseg(output, studies))


def of_medseg(output: Path, studies: int) -> list[float]:
    """Seconds of medseg's own steps for each study; all of them have to be there."""
    records = [read_record(path.parent) for path in output.rglob(RECORD)]
    assert len(records) == studies
    return [sum(stage.seconds for stage in record.stages) for record in records if record]


def show(what: str, workers: int, seconds: float, own: list[float]) -> None:
    """Print a row; what a study costs beyond medseg's own steps is Prefect's and that of starting Python."""
    studies = len(own)
    overhead = workers * seconds / studies - sum(own) / studies
    cells = (what, studies, f"{seconds:.1f}", f"{60 * studies / seconds:.1f}", f"{overhead:.1f}")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=8, help="studies")
    parser.add_argument("workers", nargs="*", type=int, default=[1, 2, 4])
    wanted = parser.parse_args()
    if programs() is None:
        sys.exit("PostgreSQL is not installed (apt-get install postgresql).")
    with running() as database, tempfile.TemporaryDirectory() as name:
        env = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
        with Installation(Path(name), **env) as one:
            one.scans.mkdir()
            one.start_server()
            one.do("prefect work-pool create medseg-cpu --type process")
            one.do("prefect work-pool create medseg-gpu --type process")
            one.do("prefect --no-prompt deploy --all --prefect-file flows/prefect.yaml")
            print(f"{os.cpu_count()} processor cores\n")
            print("| | studies | seconds | studies a minute | overhead a study, s |")
            print("|---|---|---|---|---|", flush=True)
            measure(one, wanted.n, wanted.workers)


if __name__ == "__main__":
    main()
