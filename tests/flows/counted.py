"""`reprocess-studies` that writes down every start of a segmentation, and takes its time over each."""

import os
import time
from pathlib import Path

import medseg.case
from flows.reprocess import reprocess_studies

__all__ = ["reprocess_studies"]

_segment = medseg.case.segment


def _counted(volume, *args, **kwargs):
    # One write to a file that is open for appending is one line, whoever else writes.
    with Path(os.environ["MEDSEG_TEST_STARTS"]).open("ab", buffering=0) as file:
        file.write(f"{os.getpid()} {int(volume.array.max())}\n".encode())
    result = _segment(volume, *args, **kwargs)
    time.sleep(float(os.environ["MEDSEG_TEST_SECONDS"]))
    return result


medseg.case.segment = _counted
