"""Readers that are being compared: a process that has loaded one, and a fork of it for every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LOG = "log"
TIMEOUT_S = 600


class Nursery:
    """Has one reader read case after case, each in a process of its own; what it says lies in OUT/log.

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

    def read(self, case: Path, out: str) -> tuple[int, frozenset[str]]:
        """The exit code of a case, negative if a signal ended it, and the lines that were said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{case}\t{out}\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        log = Path(out, LOG)
        lines = frozenset(log.read_text(errors="replace").splitlines())
        log.unlink()
        return code, lines


def serve(load: Callable[[], object], work: Callable[[Path, Path], None]) -> None:
    """Answer a `Nursery` until it ends.

    Args:
        load: Imports the reader, once.
        work: Called with the case and the folder for what comes out, in a fork.
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
                work(case, out)
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
