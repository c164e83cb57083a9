"""Reading a scan and writing labels as .nii.gz, by medseg and by nibabel in turns: MB of voxels a second, the ratio.

python -m tests.benchmarks.gzip_files [REPEATS]

medseg reads the file back after writing; that is shown apart, since nibabel does not. Seconds are the processor's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch.nn import functional

import medseg.formats.nifti
from medseg.formats import read, write
from medseg.volume import Segmentation
from tests.benchmarks.end_to_end_cases import SCANS, save_phantom

CLASSES = 25
BARS = {"read": 1.7, "write": 3.5}


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def by_nibabel(path: Path) -> None:
    np.asarray(nibabel.load(path).dataobj)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        scan, mask = Path(folder, "scan.nii.gz"), Path(folder, "mask.nii.gz")
        save_phantom(scan, SCANS["M"], CLASSES)
        volume = read(scan)
        smooth = functional.avg_pool3d(torch.from_numpy(volume.array).float(), 5, stride=1, padding=2)[0].numpy()
        labels = np.asfortranarray(np.clip((smooth + 1000) // 80, 0, CLASSES - 1).astype(np.uint8))
        segmentation = Segmentation(labels, volume.geometry)
        image = nibabel.Nifti1Image(labels, volume.geometry.affine)
        write(segmentation, mask)  # loads what reads it back
        confirm, medseg.formats.nifti._confirm = medseg.formats.nifti._confirm, lambda *_: None
        ours = {"read": lambda: read(scan), "write": lambda: write(segmentation, mask)}
        theirs = {"read": lambda: by_nibabel(scan), "write": lambda: nibabel.save(image, mask)}
        for what, size in (("read", volume.array.nbytes), ("write", labels.nbytes)):
            pairs = [(seconds(ours[what]), seconds(theirs[what])) for _ in range(repeats)]
            mine, nibabels = (min(times) for times in zip(*pairs, strict=True))
            print(
                f"{what:<6} medseg {size / mine / 1e6:6.0f} MB/s  nibabel {size / nibabels / 1e6:6.0f} MB/s"
                f"  ratio {nibabels / mine:.1f} (bar {BARS[what]})"
            )
        medseg.formats.nifti._confirm = confirm
        alone = seconds(ours["write"])
        print(f"write and read back: {labels.nbytes / alone / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
