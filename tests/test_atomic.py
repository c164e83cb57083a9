from __future__ import annotations

import os
import subprocess
import sys

from medseg.atomic import write_text

DIES = """
import os, sys
from pathlib import Path
from medseg.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    os._exit(9)
"""


def test_what_a_process_that_died_left_behind_is_removed_by_the_next_write_though_nobody_waited_for_it(tmp_path):
    path = tmp_path / "run.json"
    died = subprocess.Popen([sys.executable, "-c", DIES, str(path)])
    os.waitid(os.P_PID, died.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert [one.name for one in tmp_path.iterdir()] == [f".{died.pid}.part.run.json"]
    write_text(path, "whole")
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]
    assert died.wait() == 9


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    part = tmp_path / f".{os.getppid()}.part.run.json"
    part.write_text("half", encoding="utf-8")
    write_text(tmp_path / "run.json", "whole")
    assert part.exists()
