"""Seconds until `medseg batch` has looked through many unchanged studies, in a process of its own.

python -m tests.benchmarks.triage [STUDIES]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medseg.ledger import read_record, stamp_of
from tests.tiny import save_scan, save_tiny_model

LIMIT_S = 60


def main() -> None:
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_tiny_model(root / "tiny")
        scan = save_scan(root / "in" / "0.nii.gz")
        command = [
            sys.executable,
            "-m",
            "medseg",
            "batch",
            root / "in",
            root / "out",
            "--model",
            root / "tiny",
            "--json",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        _multiply(scan, root / "out" / "0", studies)
        begin = time.perf_counter()
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - begin
    content = json.loads(answer)
    print(f"{content['unchanged']} unchanged, {content['done']} done, {seconds:.1f} s (limit {LIMIT_S} s)")
    sys.exit(seconds > LIMIT_S or content["unchanged"] != studies)


def _multiply(scan: Path, result: Path, studies: int) -> None:
    """Copies of a scan and its result, each with a record that holds for it."""
    record = read_record(result)
    assert record is not None
    content = scan.read_bytes()
    files = {output.name: (result / output.name).read_bytes() for output in record.outputs}
    for number in range(1, studies):
        copy = scan.with_name(f"{number}.nii.gz")
        copy.write_bytes(content)
        folder = result.with_name(str(number))
        folder.mkdir()
        outputs = []
        for output in record.outputs:
            path = folder / output.name.replace("0_seg", f"{number}_seg")
            path.write_bytes(files[output.name])
            outputs.append(output.model_copy(update={"name": path.name, "mtime_ns": path.stat().st_mtime_ns}))
        where = record.input.model_copy(update={"stamp": stamp_of([copy])})
        own = record.model_copy(update={"input": where, "outputs": tuple(outputs)})
        (folder / "run.json").write_text(own.to_json())


if __name__ == "__main__":
    main()
