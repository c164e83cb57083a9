"""Prefect as a user has it: a server, workers and deployments of their own, in a folder that tests throw away."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.pacs.orthanc import free_port

ROOT = Path(__file__).parents[2]
START_S = 300
BUSY_S = 60
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Installation:
    """What lies in `folder`: Prefect's database, logs, scans and results.

    Attributes:
        env: Environment of every process.
        processes: Those that were started and not ended, by name.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.scans, self.results = folder / "scans", folder / "results"
        self.home = folder / "prefect"
        self.port = free_port()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = os.environ | {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "MEDSEG_SCANS": str(self.scans),
            "MEDSEG_RESULTS": str(self.results),
            "OMP_NUM_THREADS": "1",
            **env,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Installation:
        self.home.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)
        for pid in self.flow_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start(self, name: str, command: str) -> None:
        """Start what runs until it is killed; its words go to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            words = shlex.split(command, comments=True)
            self.processes[name] = subprocess.Popen(words, cwd=ROOT, env=self.env, stdout=log, stderr=log)

    def start_server(self, name: str = "server") -> None:
        """Start the server and wait until it answers."""
        self.start(name, "prefect server start")
        self.wait(self.answers, START_S, lambda: f"the server; {self.log(name)}")

    def answers(self) -> bool:
        """Whether the server does."""
        try:
            return bool(self.api("GET", "/health"))
        except OSError:
            return False

    def start_worker(self, name: str = "worker") -> None:
        """Start a worker of the pool for the processor."""
        self.start(name, f"prefect worker start --pool medseg-cpu --name {name}")

    def do(self, command: str, seconds: float = 300) -> str:
        """What a command says.

        Raises:
            AssertionError: If it fails.
        """
        where: dict[str, Any] = {"cwd": ROOT, "env": self.env, "timeout": seconds}
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, **where)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def kill(self, name: str) -> None:
        """End a process as a power cut would, and wait until it is gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(30)

    def flow_processes(self) -> list[int]:
        """The processes of this installation that run a flow, by what their environment says."""
        mark = f"PREFECT_HOME={self.env['PREFECT_HOME']}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_flow = b"prefect.engine" in (folder / "cmdline").read_bytes()
                if is_flow and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def kill_flows(self) -> int:
        """End all flow runs' processes at once; gives their number."""
        pids = self.flow_processes()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def run(self, deployment: str, **request: Any) -> str:
        """Submit a run with the parameter `request`, as `prefect deployment run` does, and give its id."""
        known = self.api("GET", f"/deployments/name/{deployment}")
        now = {"scheduled_time": datetime.now(UTC).isoformat()}
        content = {"parameters": {"request": request}, "state": {"type": "SCHEDULED", "state_details": now}}
        return str(self.api("POST", f"/deployments/{known['id']}/create_flow_run", content)["id"])

    def state(self, run: str) -> str:
        """The kind of a run's state, such as COMPLETED; empty while the server does not answer."""
        try:
            return str(self.api("GET", f"/flow_runs/{run}")["state_type"])
        except OSError:
            return ""

    def ended(self, run: str, seconds: float) -> str:
        """The state in which a run ends."""
        return self.all_ended([run], seconds)[0]

    def all_ended(self, runs: list[str], seconds: float) -> list[str]:
        """The states in which runs end."""
        self.wait(lambda: set(self.states(runs)) <= ENDED, seconds, lambda: f"runs to end; {self.log('worker')}")
        return self.states(runs)

    def states(self, runs: list[str]) -> list[str]:
        """The same of several runs by one request, so that waiting for many takes little of the server's time."""
        try:
            found = self.api("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
        except OSError:
            return [""]
        state_of = {one["id"]: one["state_type"] for one in found}
        return [str(state_of[run]) for run in runs]

    def api(self, method: str, path: str, content: object = None) -> Any:
        """What the server's REST interface answers; asked again while its database is locked, as Prefect's client does.

        The server answers 503 when SQLite was busy for too long, and has then changed nothing.
        """
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.env['PREFECT_API_URL']}{path}", data, headers, method=method)
        end = time.monotonic() + BUSY_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refusal:
                if refusal.code != 503 or time.monotonic() > end:
                    raise
                time.sleep(1)

    def wait(self, until: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
        """Wait for something, but not for ever."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what()}")
            time.sleep(0.2)

    def log(self, name: str) -> str:
        """The last lines of what a process said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-2000:] if path.is_file() else "no log"
