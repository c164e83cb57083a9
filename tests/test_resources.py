from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LARGE = """
import subprocess, sys
held = bytearray(b"1") * (300 * 2**20)
tell = "from medseg.resources import peak_memory_mib; print(peak_memory_mib())"
print(subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True).stdout)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere getrusage tells, which cannot")
def test_peak_memory_is_not_that_of_the_process_which_started_this_one():
    told = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout
    assert 5 < float(told) < 200
