"""Export alone: 100 classes on real anatomy to a scan's own grid of 10.4 million voxels; seconds and memory.

python -m tests.benchmarks.export [REPEATS]

The anatomy is a label map of the shared data where there is one, else the phantom; scores are what a trained network's
look like, high for the label of a voxel and for its neighbours. medseg takes logits and, as for a network that ends in
a 1×1 convolution, features. The peer is MONAI's way: resample all classes linearly, then argmax.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from medseg.geometry import Geometry
from medseg.inference import export
from medseg.inference.head import Head
from medseg.resources import memory_kept, memory_mib, peak_memory_mib
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


def slabs(values: torch.Tensor, layer: Head, *, put_off: bool) -> Iterator[Slab]:
    for start in range(0, SOURCE[0], PLANES):
        slab = Slab(values[:, start : start + PLANES].clone(), 0, start, head=layer)
        yield slab if put_off else slab.finished


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    source = Geometry(SOURCE, np.diag([SPACING_MM] * 3 + [1.0]))
    target = Geometry(TARGET, np.diag([*TARGET_SPACING_MM, 1.0]))
    values, layer = features(), head()
    print(f"{CLASSES} classes, {math.prod(TARGET) / 1e6:.1f} million voxels, {torch.get_num_threads()} threads")
    labels = {}
    for name, put_off in (("features and head", True), ("logits", False)):
        for slab in export(slabs(values, layer, put_off=put_off), source, to=target):
            del slab  # compiles and loads
        best = math.inf
        with memory_kept():
            before = memory_mib()
            for _ in range(repeats):
                found = np.zeros(TARGET, np.uint8)
                given = list(slabs(values, layer, put_off=True)) if put_off else None
                began = time.perf_counter()
                for slab in export(iter(given) if given else slabs(values, layer, put_off=False), source, to=target):
                    found[slab.start : slab.stop] = slab.classes
                best = min(best, time.perf_counter() - began)
                del given
            held = memory_mib() - before
        labels[name] = found
        print(f"{name:<18} {best:5.2f} s (bar {BAR_S} s)  {held:6.0f} MiB beside the scores")
    print(f"the two differ in {np.mean(labels['logits'] != labels['features and head']):.1e} of the voxels")
    print(f"peak {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
