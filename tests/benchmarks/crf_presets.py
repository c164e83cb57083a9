"""Dice and surface Dice before and after the dense CRF, on held-out cases, and a search for settings.

python -m tests.benchmarks.crf_presets [--mr NAME|FOLDER ...] [--ct NAME|FOLDER ...] [--cases 20] [--search 60]

Where scores come from:
- every model that is named, on cases that none was trained on: every fifth of Task04_Hippocampus, and the patients of
  headneck_ct from 201 on;
- scribbles on the same scans: two hundredths of every label's voxels are known, the others belong to the nearest;
- a poor classifier on the same CT: the reference, warped by some mm and blurred.

The first half of each kind's cases is searched on, the second reported. The search draws settings at random and ranks
them by the mean change of Dice over the kinds of one modality.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

import medseg
from medseg.formats import read_segmentation
from medseg.metrics.surface import surface_dice, surface_distances
from medseg.model import Model
from medseg.pipeline import segment
from medseg.refine import PRESETS, CrfSettings, crf_refiner
from medseg.training.cases import Case, find_cases, read_image
from medseg.volume import Segmentation, Slab, Volume

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class Scored:
    """A scan, its reference, and the scores that a CRF is to refine, (labels, I, J, K)."""

    volume: Volume
    reference: Segmentation
    probabilities: torch.Tensor

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return self.volume.geometry.spacing_mm


def present(reference: Segmentation) -> list[int]:
    """The labels that occur, besides background."""
    return [int(label) for label in np.unique(reference.array) if label]


def scores_of(volume: Volume, model: Model) -> torch.Tensor:
    """What the model's network says before anything refines it, on the scan's own grid."""
    slabs: list[Slab] = []

    def keep(given: Iterator[Slab], _: Volume) -> Iterator[Slab]:
        for slab in given:
            slabs.append(replace(slab, scores=slab.probabilities.clone(), are_probabilities=True))
            yield slab

    segment(volume, model, refiners=[keep])
    scores = torch.zeros(slabs[0].scores.shape[0], *volume.geometry.shape)
    scores[0] = 1
    for slab in slabs:
        scores.narrow(1 + slab.axis, slab.start, slab.stop - slab.start).copy_(slab.scores)
    return scores


def scores_of_scribbles(reference: Segmentation, share: float = 0.02) -> torch.Tensor:
    """Scores of the nearest scribble: certain on it, less so with the distance."""
    random = np.random.default_rng(0)
    distances = []
    for label in (0, *present(reference)):
        inside = np.argwhere(reference.array == label)
        chosen = random.choice(len(inside), max(int(share * len(inside)), 1), replace=False)
        elsewhere = np.ones(reference.array.shape, bool)
        elsewhere[tuple(inside[chosen].T)] = False
        distances.append(distance_transform_edt(elsewhere, sampling=reference.geometry.spacing_mm))
    return torch.tensor(-0.5 * np.stack(distances), dtype=torch.float32).softmax(0)


def scores_of_poor_classifier(reference: Segmentation, warp_mm: float = 4.0, blur_mm: float = 3.0) -> torch.Tensor:
    """The reference where a smooth random field has moved it, with soft borders."""
    random = np.random.default_rng(0)
    spacing = np.array(reference.geometry.spacing_mm)
    shifts = [gaussian_filter(random.standard_normal(reference.array.shape), 15 / spacing) for _ in range(3)]
    moved = [axis + warp_mm / s * f / f.std() for axis, s, f in zip(
        np.indices(reference.array.shape), spacing, shifts, strict=True)]  # fmt: skip
    warped = map_coordinates(reference.array, moved, order=0, mode="nearest")
    soft = [gaussian_filter((warped == label).astype(np.float32), blur_mm / spacing)
            for label in (0, *present(reference))]  # fmt: skip
    scores = torch.tensor(np.stack(soft)).clamp_min(1e-4)
    return scores / scores.sum(0)


def refined(scored: Scored, settings: CrfSettings) -> NDArray[np.int64]:
    slab = Slab(scored.probabilities, 2, 0, are_probabilities=True)
    parts = list(crf_refiner(settings)(iter([slab]), scored.volume))
    return labels_of(torch.cat([part.scores for part in parts], 3), scored)


def labels_of(scores: torch.Tensor, scored: Scored) -> NDArray[np.int64]:
    indices = np.array((0, *present(scored.reference)))
    found: NDArray[np.int64] = indices[scores.argmax(0).numpy()]
    return found


def dice(scored: Scored, found: NDArray[np.int64]) -> float:
    """Mean over the labels of the reference."""
    values = []
    for label in present(scored.reference):
        truth, guess = scored.reference.array == label, found == label
        values.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return float(np.mean(values))


def surface(scored: Scored, found: NDArray[np.int64]) -> float:
    """Mean surface Dice over the labels of the reference."""
    values = []
    for label in present(scored.reference):
        truth = scored.reference.array == label
        distances = surface_distances(truth, found == label, scored.spacing_mm)
        values.append(surface_dice(distances, TOLERANCE_MM))
    return float(np.mean(values))


def gather_mr(root: Path, models: Sequence[str], count: int) -> dict[str, tuple[str, list[Scored]]]:
    """By kind of scores: the modality, and that many cases."""
    brains = _pairs(find_cases(root / "Task04_Hippocampus")[::5], count)
    kinds = _kinds_of_models("mr", models, brains)
    kinds["scribbles, MR"] = ("mr", [Scored(v, truth, scores_of_scribbles(truth)) for v, truth in brains])
    return kinds


def gather_ct(root: Path, models: Sequence[str], count: int) -> dict[str, tuple[str, list[Scored]]]:
    """As `gather_mr`."""
    held_out = [case for case in find_cases(root / "headneck_ct") if case.name >= "kbp_201"]
    necks = _pairs(held_out, count)
    kinds = _kinds_of_models("ct", models, necks)
    kinds["warped, CT"] = ("ct", [Scored(v, truth, scores_of_poor_classifier(truth)) for v, truth in necks])
    kinds["scribbles, CT"] = ("ct", [Scored(v, truth, scores_of_scribbles(truth)) for v, truth in necks])
    return kinds


def _kinds_of_models(
    modality: str, models: Sequence[str], pairs: Sequence[tuple[Volume, Segmentation]]
) -> dict[str, tuple[str, list[Scored]]]:
    kinds = {}
    for name in models:
        model = medseg.load_model(name)
        title = Path(name).parent.name if Path(name).is_dir() else name
        kinds[title] = (modality, [Scored(volume, truth, scores_of(volume, model)) for volume, truth in pairs])
    return kinds


def _pairs(cases: Sequence[Case], count: int) -> list[tuple[Volume, Segmentation]]:
    return [(read_image(case), read_segmentation(case.label)) for case in cases[:count]]


def draw(random: np.random.Generator, base: CrfSettings) -> CrfSettings:
    return base.model_copy(
        update={
            "smoothness_weight": float(random.choice([0.0, 0.3, 1.0, 2.0])),
            "smoothness_sd": float(random.choice([1.0, 2.0, 4.0])),
            "appearance_weight": float(random.choice([0.3, 1.0, 2.0, 4.0])),
            "appearance_sd": float(random.choice([2.0, 4.0, 8.0])),
            "appearance_sd_value": float(random.choice([5.0, 10.0, 20.0, 40.0])),
        }
    )


def search(kinds: dict[str, tuple[str, list[Scored]]], modality: str, draws: int) -> None:
    """Print the best settings on the first half of the cases."""
    random = np.random.default_rng(0)
    halves = {name: cases[: len(cases) // 2] for name, (of, cases) in kinds.items() if of == modality}
    before = {name: [dice(s, labels_of(s.probabilities, s)) for s in cases] for name, cases in halves.items()}
    tried = []
    for _ in range(draws):
        settings = draw(random, PRESETS[modality])
        changes = {
            name: float(np.mean([dice(s, refined(s, settings)) for s in cases]) - np.mean(before[name]))
            for name, cases in halves.items()
        }
        tried.append((float(np.mean(list(changes.values()))), changes, settings))
    tried.sort(key=lambda one: -one[0])
    for mean, changes, s in tried[:8]:
        shown = "  ".join(f"{name} {change:+.4f}" for name, change in changes.items())
        print(
            f"{modality} {mean:+.4f}  smoothness {s.smoothness_weight:g}, {s.smoothness_sd:g} mm  appearance "
            f"{s.appearance_weight:g}, {s.appearance_sd:g} mm, {s.appearance_sd_value:g}  {shown}",
            flush=True,
        )


def report(kinds: dict[str, tuple[str, list[Scored]]], others: Sequence[str]) -> None:
    """Print a table of the second half of the cases."""
    print(f"| scores of | cases | CRF | Dice | surface Dice at {TOLERANCE_MM:g} mm |\n|---|---|---|---|---|")
    for name, (modality, cases) in kinds.items():
        rest = cases[len(cases) // 2 :]
        ways: dict[str, Callable[[Scored], NDArray[np.int64]]] = {"none": lambda s: labels_of(s.probabilities, s)}
        for which in (modality, *others):
            ways[which] = lambda s, which=which: refined(s, PRESETS[which])
        for way, find in ways.items():
            found = [find(s) for s in rest]
            values = [np.mean([f(s, x) for s, x in zip(rest, found, strict=True)]) for f in (dice, surface)]
            print(f"| {name} | {len(rest)} | {way} | {values[0]:.3f} | {values[1]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mr", action="append", default=[], metavar="MODEL")
    parser.add_argument("--ct", action="append", default=[], metavar="MODEL")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--search", type=int, default=0, metavar="DRAWS")
    parser.add_argument("--preset", action="append", default=["common"], help="Reported beside the modality's own.")
    parser.add_argument("--only", action="append", choices=["mr", "ct"])
    parser.add_argument("--data", type=Path, default=SHARED)
    arguments = parser.parse_args()
    for modality in arguments.only or ("mr", "ct"):
        gather, models = (gather_mr, arguments.mr) if modality == "mr" else (gather_ct, arguments.ct)
        kinds = gather(arguments.data, models, arguments.cases)
        if arguments.search:
            search(kinds, modality, arguments.search)
        report(kinds, arguments.preset)


if __name__ == "__main__":
    main()
