"""CPU seconds, seconds and peak memory of reading a CT of 512 × 512 × 500 voxels, beside SimpleITK in the same run.

python -m tests.benchmarks.dicom_read [--slices 500] [--runs 3] [--codecs raw rle ...]

The two readers take turns, each in a process of its own; what is told is the median. Seconds are those of reading,
without the imports; memory is that of the process and of every process that it starts, the imports included.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

READERS = ("medseg", "SimpleITK")
CODECS = {"raw": None, "rle": RLELossless, "jpegls": JPEGLSLossless, "j2k": JPEG2000Lossless}
DISTINCT = 20  # slices that are encoded; the others repeat them


def make(folder: Path, codec: str, slices: int) -> None:
    """A series of real CT slices, each turned over and moved a little so that none is like its neighbour."""
    folder.mkdir()
    sources = [pydicom.dcmread(path) for path in sorted((Path(__file__).parents[1] / "data/ct_dicom").glob("*.dcm"))]
    pictures = []
    for n in range(min(DISTINCT, slices)):
        data = copy.deepcopy(sources[n % len(sources)])
        picture = np.roll(data.pixel_array, 5 * n, axis=n % 2)
        data.PixelData = (picture[::-1] if n % 4 > 1 else picture).tobytes()
        if CODECS[codec]:
            data.compress(CODECS[codec])
        pictures.append(data)
    for k in range(slices):
        data = pictures[k % len(pictures)]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], k * 1.25]
        data.InstanceNumber = k
        data.save_as(folder / f"{k:04}.dcm")


def read(reader: str, folder: str) -> dict[str, float]:
    """Read a series with the usual call, and tell what that took."""
    if reader == "medseg":
        import medseg.formats
    else:
        import SimpleITK
    cpu, since = _cpu_seconds(), time.perf_counter()
    if reader == "medseg":
        array = medseg.formats.read(folder).array[0]
    else:
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
        image = SimpleITK.ReadImage(names)
        array = SimpleITK.GetArrayViewFromImage(image).transpose(2, 1, 0)
    took, cpu = time.perf_counter() - since, _cpu_seconds() - cpu
    checksum = float(sum(int(plane.sum(dtype=np.int64)) * (k + 1) for k, plane in enumerate(array.transpose(2, 0, 1))))
    return {"cpu_s": cpu, "s": took, "checksum": checksum}


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def watched(command: list[str]) -> dict[str, float]:
    """What a reader tells, and the peak of the memory that its processes had together, looked at every 5 ms."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(0.005)
    assert process.stdout is not None
    return {**json.loads(process.stdout.read()), "mb": peak / 1e6}


def _resident(process: int) -> int:
    """Bytes that a process and its children have in memory; what they share counts once for each."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, IndexError):  # it has just ended
        return 0
    return pages * resource.getpagesize() + sum(_resident(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--codecs", nargs="*", choices=CODECS, default=list(CODECS))
    parser.add_argument("--work", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(read(*arguments.work)))
        return
    print(f"| 512 × 512 × {arguments.slices} | reader | s of CPU | s | MB |\n|---|---|---|---|---|")
    worse = []
    with tempfile.TemporaryDirectory() as scratch:
        for codec in arguments.codecs:
            folder = Path(scratch, codec)
            make(folder, codec, arguments.slices)
            found: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
            for _ in range(arguments.runs):
                for reader in READERS:
                    command = [sys.executable, "-m", "tests.benchmarks.dicom_read", "--work", reader, str(folder)]
                    found[reader].append(watched(command))
            assert len({one["checksum"] for runs in found.values() for one in runs}) == 1, "the voxels differ"
            medians = {
                reader: {key: statistics.median(one[key] for one in runs) for key in ("cpu_s", "s", "mb")}
                for reader, runs in found.items()
            }
            for reader, of in medians.items():
                print(f"| {codec} | {reader} | {of['cpu_s']:.2f} | {of['s']:.2f} | {of['mb']:.0f} |", flush=True)
            worse += [codec for key in ("cpu_s", "mb") if medians["medseg"][key] > medians["SimpleITK"][key]]
    sys.exit(f"worse than SimpleITK: {', '.join(dict.fromkeys(worse))}" if worse else 0)


if __name__ == "__main__":
    main()
