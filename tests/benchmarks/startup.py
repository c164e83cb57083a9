"""CPU seconds until `medseg --help` has answered, beside those of an empty Python program.

python tests/benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

LIMIT_S = 0.5


def cpu_seconds(*arguments: str) -> float:
    """User and system time of one run, its children included."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    cpu_seconds("-m", "medseg", "--help")  # writes the byte code
    empty = statistics.median(cpu_seconds("-c", "pass") for _ in range(runs))
    answer = statistics.median(cpu_seconds("-m", "medseg", "--help") for _ in range(runs))
    print(f"python -c pass  {empty:.3f} s of CPU (median of {runs})")
    print(f"medseg --help   {answer:.3f} s of CPU (limit {LIMIT_S} s)")
    sys.exit(answer > LIMIT_S)


if __name__ == "__main__":
    main()
