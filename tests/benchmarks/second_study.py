"""Seconds of the first study of a process and of those after it, which find Python, torch and the model loaded.

python -m tests.benchmarks.second_study [STUDIES]

`medseg batch` on copies of a scan with the shipped model: with one, and with several more in the same process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medseg.ledger import RECORD, Record, read_record

SCAN = Path(__file__).parents[1] / "data" / "hippocampus" / "imagesTr" / "hippocampus_001.nii.gz"


def batch(folder: Path, studies: int) -> tuple[float, list[Record]]:
    """Seconds of a batch in a process of its own, and its records in the order of the work."""
    scans, results = folder / "in", folder / "out"
    scans.mkdir(parents=True)
    for number in range(studies):
        (scans / f"{number}.nii.gz").write_bytes(SCAN.read_bytes())
    command = [sys.executable, "-m", "medseg", "batch", scans, results, "--device", "cpu", "--no-preview", "--quiet"]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    paths = sorted(results.rglob(RECORD), key=lambda path: path.stat().st_mtime_ns)
    return seconds, [record for path in paths if (record := read_record(path.parent))]


def main() -> None:
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        alone, _ = batch(Path(folder, "one"), 1)
        together, records = batch(Path(folder, "several"), studies)
    assert len(records) == studies, "a study has no record"
    loads = [stage.seconds for record in records for stage in record.stages if stage.name == "load"]
    each = (together - alone) / (studies - 1)
    print(f"first study of a process: {alone:.2f} s, of which {loads[0]:.2f} s load the model")
    print(f"each of {studies - 1} after it: {each:.2f} s, of which {statistics.fmean(loads[1:]):.3f} s load the model")


if __name__ == "__main__":
    main()
