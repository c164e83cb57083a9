"""Export alone: 100 classes onto a scan's own grid of 10.4 million voxels; seconds and memory beside the scores' own.

python -m tests.benchmarks.export [REPEATS]

The anatomy is that of the end-to-end benchmark's phantom. medseg takes logits and, as of a network that ends in a 1×1
convolution, features; planes of scores are made as they are asked for, which is not counted.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medseg.geometry import Geometry
from medseg.inference import export
from medseg.inference.head import Head
from medseg.resources import memory_kept, memory_mib
from medseg.volume import Slab
from tests.benchmarks.end_to_end_cases import HIGH, LOW, grey_values, phantom

CLASSES, FEATURES, PLANES = 100, 16, 4
SOURCE, SPACING_MM = (200, 200, 167), 1.5
TARGET, TARGET_SPACING_MM = (240, 240, 181), (1.25, 1.25, 1.385)
BAR_S, BAR_MIB = 0.6, 95


def features() -> torch.Tensor:
    """(features, I, J, K): the first is the grey value, which the head turns into scores of the nearest class."""
    grey = (phantom(SOURCE, CLASSES).astype(np.float32) - LOW) / (HIGH - LOW)
    smooth = functional.avg_pool3d(torch.from_numpy(grey)[None, None], 3, stride=1, padding=1)[0, 0]
    noise = torch.randn(FEATURES, *SOURCE, generator=torch.Generator().manual_seed(0))
    noise[0] = smooth
    return noise


def head() -> Head:
    means = torch.from_numpy(grey_values(CLASSES))
    weight = torch.zeros(CLASSES, FEATURES)
    weight[:, 0] = 2 * means
    return Head(weight, -(means**2))


class Slabs:
    """Makes slabs as a sweep does, and counts the seconds that this takes."""

    def __init__(self, values: torch.Tensor, layer: Head, *, put_off: bool) -> None:
        self.values, self.layer, self.put_off = values, layer, put_off
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Slab]:
        for start in range(0, SOURCE[0], PLANES):
            began = time.perf_counter()
            slab = Slab(self.values[:, start : start + PLANES].clone(), 0, start, head=self.layer)
            slab = slab if self.put_off else slab.finished
            self.seconds += time.perf_counter() - began
            yield slab
            del slab


def measure(slabs: Slabs) -> tuple[float, float, NDArray[np.uint8]]:
    """Seconds, MiB at most beside the scores' own, and the labels."""
    source = Geometry(SOURCE, np.diag([SPACING_MM] * 3 + [1.0]))
    target = Geometry(TARGET, np.diag([*TARGET_SPACING_MM, 1.0]))
    labels = np.zeros(TARGET, np.uint8)
    before, most = memory_mib(), 0.0
    began = time.perf_counter()
    for slab in export(iter(slabs), source, to=target):
        labels[slab.start : slab.stop] = slab.classes
        most = max(most, memory_mib())
    return time.perf_counter() - began - slabs.seconds, most - before, labels


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    values, layer = features(), head()
    print(f"{CLASSES} classes, {math.prod(TARGET) / 1e6:.1f} million voxels, {torch.get_num_threads()} threads")
    labels = []
    for put_off in (True, False):
        measure(Slabs(values, layer, put_off=put_off))  # loads the kernels
        runs = []
        for _ in range(repeats):
            with memory_kept():
                runs.append(measure(Slabs(values, layer, put_off=put_off)))
        seconds, held_mib, found = min(runs, key=lambda run: run[0])
        labels.append(found)
        what = "features and head" if put_off else "logits"
        print(f"{what:<18} {seconds:5.2f} s (bar {BAR_S} s)  {held_mib:4.0f} MiB (bar {BAR_MIB} MiB)")
    print(f"the two differ in {np.mean(labels[0] != labels[1]):.1e} of the voxels")


if __name__ == "__main__":
    main()
