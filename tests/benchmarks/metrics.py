"""Seconds and memory for all overlap and surface metrics of a large multi-label scan, beside MONAI's one-hot path.

python tests/benchmarks/metrics.py [LABELS_FOR_MONAI]

512 × 512 × 300 voxels, 25 labels. MONAI measures LABELS_FOR_MONAI of them (default 2), spread evenly over the labels by
size; its figure is their mean time scaled to 25. It works label by label inside too, so that a run on all would take as
long. Its one-hot arrays are made for one label at a time: those of all labels, one for each side, would be 3.9 GB.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from medseg.metrics import METRICS, Comparison, confusion, measure

SHAPE, LABELS, SPACING_MM = (512, 512, 300), 25, (0.8, 0.8, 1.5)
OVERLAP_LIMIT_S, SURFACE_FACTOR = 1.0, 10.0
SURFACE = ("hausdorff_mm", "hausdorff95_mm", "assd_mm", "surface_dice")
OF_MASKS = ("centreline_dice", "lesion_f1")
OVERLAP = tuple(metric.name for metric in METRICS if metric.name not in (*SURFACE, *OF_MASKS))


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Ellipsoids of 40 to 120 voxels, and the same ones moved by two voxels, as NIfTI files lie in memory."""
    rng = np.random.default_rng(0)
    reference = np.zeros(SHAPE, dtype=np.uint8, order="F")
    for label in range(1, LABELS + 1):
        radius = int(rng.integers(20, 60))
        centre = [int(rng.integers(radius, n - radius)) for n in SHAPE]
        box = tuple(slice(c - radius, c + radius) for c in centre)
        i, j, k = np.ogrid[(slice(-radius, radius),) * 3]
        reference[box][i**2 + j**2 + k**2 < radius**2] = label
    return reference, np.asfortranarray(np.roll(reference, 2, axis=0))


def seconds(action, repeats: int = 1) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return min(taken)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def monai_seconds(reference: np.ndarray, prediction: np.ndarray, label: int) -> float:
    y_pred, y = (torch.from_numpy((array == label)[None, None]) for array in (prediction, reference))
    options = {"include_background": True, "spacing": SPACING_MM}

    def measure_one() -> None:
        compute_hausdorff_distance(y_pred, y, **options)
        compute_hausdorff_distance(y_pred, y, percentile=95, **options)
        compute_average_surface_distance(y_pred, y, symmetric=True, **options)
        compute_surface_dice(y_pred, y, [1.0], use_subvoxels=True, **options)

    return seconds(measure_one)


def main() -> None:
    warnings.simplefilter("ignore")
    tried = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    reference, prediction = phantom()
    chosen = {group: [m for m in METRICS if m.name in group] for group in (OVERLAP, SURFACE)}
    confusion(reference[:, :, :8], prediction[:, :, :8])
    overlap = seconds(lambda: measure(Comparison(reference, prediction, SPACING_MM), chosen[OVERLAP]), repeats=3)
    comparison = Comparison(reference, prediction, SPACING_MM)
    before = peak_mib()
    surface = seconds(lambda: measure(comparison, chosen[SURFACE]))
    ours = peak_mib()
    by_size = np.argsort(comparison.counts.reference_voxels)
    places = ((np.arange(tried) + 0.5) / tried * len(by_size)).astype(int)
    chosen_labels = [comparison.regions[by_size[place]][0] for place in places]
    print(f"overlap, {len(comparison.regions)} labels: {overlap:.2f} s (limit {OVERLAP_LIMIT_S} s)", flush=True)
    print(f"surface: {surface:.1f} s; memory at its peak {before:.0f} MiB before and {ours:.0f} MiB after,", end=" ")
    print(f"of which the two arrays are {2 * reference.nbytes / 2**20:.0f} MiB", flush=True)
    each = [monai_seconds(reference, prediction, label) for label in chosen_labels]
    theirs = float(np.mean(each)) * LABELS
    voxels = [int(comparison.counts.reference_voxels[by_size[place]]) for place in places]
    print(f"MONAI: {', '.join(f'{taken:.0f} s ({n} voxels)' for taken, n in zip(each, voxels, strict=True))}", end="; ")
    print(f"scaled to {LABELS} labels {theirs:.0f} s, {theirs / surface:.0f} times (limit {SURFACE_FACTOR:g})")
    sys.exit(int(overlap > OVERLAP_LIMIT_S or theirs < SURFACE_FACTOR * surface))


if __name__ == "__main__":
    main()
