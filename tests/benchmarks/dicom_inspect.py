"""Seconds until `medseg inspect` has told what is in 50,000 DICOM files, beside pydicom reading the same headers.

python -m tests.benchmarks.dicom_inspect [FILES]

The files are CT and MR headers of real scanners (from pydicom's own test data) in series of 500 slices of 512 × 512
voxels, shuffled over folders as an export leaves them. Their pixels are holes in the files, which take no disk.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from medseg.resources import cores

SLICES, SIZE = 500, 512
LIMIT_S = 60
SHARE = 20  # pydicom reads one file of so many; its seconds are told for all


def template(scanner: str, series: int) -> bytes:
    """A file whose slice is told by texts of a fixed length, to be replaced."""
    data = pydicom.dcmread(str(get_testdata_file(scanner)))
    data.Rows = data.Columns = SIZE
    data.BitsAllocated, data.PixelData = 16, b""
    data.SeriesInstanceUID, data.FrameOfReferenceUID = UID(f"1.2.3.{series}"), UID(f"1.2.4.{series}")
    data.PatientID = f"patient {series // 5}"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.5.{series + 1}.100000")
    data.ImagePositionPatient, data.InstanceNumber = ["-200", "-200", "123456.5"], "100000"
    data.pop("SliceLocation", None)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def make(folder: Path, files: int) -> None:
    random = np.random.default_rng(0)
    for series in range(-(-files // SLICES)):
        content = template("CT_small.dcm" if series % 2 else "MR_small.dcm", series)
        for k in range(min(SLICES, files - series * SLICES)):
            place = f"{k * 1.25:08.2f}".encode()
            one = content.replace(b".100000", f".{100000 + k}".encode()).replace(b"123456.5", place)
            parent = folder / f"{random.integers(100):02}"
            parent.mkdir(exist_ok=True)
            with (parent / f"{random.integers(2**48):012X}").open("wb") as file:
                file.write(one)
                file.truncate(len(one) + SIZE * SIZE * 2)


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), files)
        since = time.perf_counter()
        command = [sys.executable, "-m", "medseg", "inspect", folder, "--json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        took = time.perf_counter() - since
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert sum(len(series["paths"]) for series in found["series"]) == files, "files were lost"
        assert len(found["series"]) == -(-files // SLICES), "series were merged or split"
        cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())[::SHARE]
        since = time.perf_counter()
        for path in paths:
            pydicom.dcmread(path, stop_before_pixels=True)
        alone = (time.perf_counter() - since) * files / len(paths)
    print(f"{files} files on {cores()} cores: {took:.1f} s, {cpu:.1f} s of CPU, {memory:.0f} MiB (limit {LIMIT_S} s)")
    print(f"pydicom.dcmread alone, one after another: {alone:.1f} s")
    sys.exit(took > LIMIT_S)


if __name__ == "__main__":
    main()
