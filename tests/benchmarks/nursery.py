"""Readers that are being compared: a process that has loaded one, and a fork of it for every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

Found = tuple[np.ndarray, np.ndarray]  # voxels (I, J, K) and affine to RAS
LOG = "log"
TIMEOUT_S = 600


class Nursery:
    """Has one reader read case after case, each in a process of its own.

    Args:
        python: Of the environment that has the reader.
        script: Calls `serve` when it is given `--serve READER`.
        reader: Which.
    """

    def __init__(self, python: str, script: str, reader: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipe = subprocess.PIPE
        command = [python, script, "--serve", reader]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self, case: Path) -> tuple[int, frozenset[str], list[Found]]:
        """The exit code of a case, negative if a signal ended it, the lines that were said, and what came out.

        Of a process that a signal ended nothing counts.
        """
        with tempfile.TemporaryDirectory() as out:
            code = self._ask(case, out)
            lines = frozenset(Path(out, LOG).read_text(errors="replace").splitlines())
            return code, lines, [] if code < 0 else list(_stored(Path(out)))

    def _ask(self, case: Path, out: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{case}\t{out}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _stored(out: Path) -> Iterator[Found]:
    for path in sorted(out.glob("*.npz")):
        with np.load(path) as stored:
            yield stored["array"], stored["affine"]


def serve(load: Callable[[], object], read: Callable[[Path], Iterable[Found]]) -> None:
    """Answer a `Nursery` until it ends.

    Args:
        load: Imports the reader, once.
        read: Called with the case, in a fork.
    """
    answers = os.dup(1)
    load()
    for line in sys.stdin:
        case, out = map(Path, line.rstrip("\n").split("\t"))
        child = os.fork()
        if child == 0:
            log = os.open(out / LOG, os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 0
            try:
                for number, (array, affine) in enumerate(read(case)):
                    np.savez(out / f"{number:04}.npz", array=np.asarray(array, dtype=np.float32), affine=affine)
            except BaseException:  # whatever a reader raises
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os.write(answers, f"{_ended(child)}\n".encode())


def _ended(child: int) -> int:
    end = time.monotonic() + TIMEOUT_S
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.01)
