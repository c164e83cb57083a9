"""Size of 20 labels on 512 × 512 × 300 voxels in each output type, and CPU seconds to write and check them.

python -m tests.benchmarks.label_files [SLICES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

from medseg.formats import OUTPUT_TYPES, write, write_onto_source
from medseg.formats.dicom_source import read_source
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.dicom_files import make

SIZE, LABELS = 512, 20


def organs(slices: int) -> NDArray[np.uint8]:
    """Smooth bodies with a rough surface: each voxel belongs to the nearest of 20 seeds, where noise is high."""
    random = np.random.default_rng(0)
    coarse = (SIZE // 8, SIZE // 8, max(slices // 6, 2))
    noise = ndimage.gaussian_filter(random.standard_normal(coarse), 2)
    distance = [np.linalg.norm(np.indices(coarse).T - random.uniform(0, coarse), axis=-1).T for _ in range(LABELS)]
    bodies = (np.argmin(distance, axis=0) + 1) * (noise > 0)
    zoomed = ndimage.zoom(bodies.astype(np.uint8), [SIZE / coarse[0], SIZE / coarse[1], slices / coarse[2]], order=0)
    for k in range(slices):
        zoomed[:, :, k] = ndimage.median_filter(zoomed[:, :, k], 7)
    return zoomed


def main() -> None:
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for k in range(slices):
            data = make(k, np.zeros((slices, 1, 1), np.uint16), Rows=SIZE, Columns=SIZE, PixelData=b"")
            paths.append(Path(folder, f"{k}.dcm"))
            pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
        planes = read_source(paths).planes
        affine = np.eye(4)
        step = (planes.origins_mm[-1] - planes.origins_mm[0]) / (slices - 1)
        affine[:3] = np.column_stack((planes.column_step_mm, planes.row_step_mm, step, planes.origins_mm[0]))
        segmentation = Segmentation(organs(slices), Geometry((SIZE, SIZE, slices), affine))
        share = np.count_nonzero(segmentation.array) / segmentation.array.size
        print(f"{SIZE} × {SIZE} × {slices} voxels, {LABELS} labels, {share:.0%} of the voxels labelled")
        for output_type in ("nifti", *OUTPUT_TYPES):
            path = Path(folder, "out.nii.gz" if output_type == "nifti" else "out.dcm")
            start = time.process_time()
            if output_type == "nifti":
                write(segmentation, path)
            else:
                write_onto_source(segmentation, path, output_type, paths)
            seconds = time.process_time() - start
            print(f"{output_type:<18} {path.stat().st_size / 1e6:8.2f} MB  {seconds:6.1f} s of CPU")


if __name__ == "__main__":
    main()
