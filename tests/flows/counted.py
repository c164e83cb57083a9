"""`reprocess-studies` that writes down every start of a segmentation, and stops in the one that a test names.

The file $MEDSEG_TEST_STARTS gets a line for each; while $MEDSEG_TEST_STARTS.hold exists, whoever writes the line of the
number in it waits.
"""

import os
import time
from pathlib import Path

import medseg.case
from flows.reprocess import reprocess_studies

__all__ = ["reprocess_studies"]

_segment = medseg.case.segment


def _counted(volume, *args, **kwargs):
    starts = Path(os.environ["MEDSEG_TEST_STARTS"])
    hold = starts.with_suffix(".hold")
    # One write to a file that is open for appending is one line, whoever else writes.
    with starts.open("ab", buffering=0) as file:
        file.write(f"{os.getpid()} {int(volume.array.max())}\n".encode())
    while hold.exists() and len(starts.read_bytes().splitlines()) >= int(hold.read_text()):
        time.sleep(0.05)
    result = _segment(volume, *args, **kwargs)
    time.sleep(float(os.environ.get("MEDSEG_TEST_SECONDS", "0")))
    return result


medseg.case.segment = _counted
