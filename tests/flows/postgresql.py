"""A real PostgreSQL on this machine, started for a test on a loopback port and ended with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pacs.orthanc import free_port

START_S = 60
_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder of initdb and postgres; None where they are not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(_DEBIAN.glob("*/bin"), key=lambda path: float(path.parent.name), default=None)


@contextmanager
def running() -> Iterator[str]:
    """A database cluster of its own; gives the address of a database as Prefect takes it."""
    folder = Path(tempfile.mkdtemp(prefix="medseg-postgresql-"))
    bin_ = programs()
    assert bin_ is not None
    who: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        who |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    port, data = free_port(), str(folder / "data")
    make = [str(bin_ / "initdb"), "-D", data, "-U", "medseg", "--auth=trust", "-E", "UTF8", "--locale=C"]
    try:
        subprocess.run(make, check=True, timeout=START_S, **who)
        words = [str(bin_ / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        process = subprocess.Popen(words, **who)
        try:
            end = time.monotonic() + START_S
            ready = [str(bin_ / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready, check=False, timeout=START_S, **who).returncode != 0:
                assert process.poll() is None, "PostgreSQL ended while it started"
                assert time.monotonic() < end, "PostgreSQL did not start in time"
                time.sleep(0.1)
            yield f"postgresql+asyncpg://medseg@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGQUIT)  # at once; nobody will want the data again
            process.wait(START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
