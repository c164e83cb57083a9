from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from platform import libc_ver

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


REPEATED = """
import contextlib, resource, sys
from medseg.resources import memory_kept, memory_mib

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(b"1") * (40 * 2**20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with memory_kept(), memory_kept():
    print(faults())
print(faults(), memory_mib())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_used_again_while_it_is_kept_and_given_back_afterwards():
    told = subprocess.run([sys.executable, "-c", REPEATED], capture_output=True, text=True, check=True).stdout
    kept, returned, held_mib = map(float, told.split())
    assert kept < returned / 5
    assert held_mib < 100
