"""Dice and surface Dice before and after the dense CRF, on held-out cases, and a search for settings.

python -m tests.benchmarks.crf_presets [--mr NAME|FOLDER ...] [--ct NAME|FOLDER ...] [--cases 20] [--search 60]

Where scores come from:
- every model that is named, on cases that none was trained on: every fifth of Task04_Hippocampus (for a model of single
  slices every fifth patient of sunnybrook, four slices of each), and the patients of headneck_ct from 201 on;
- scribbles on the same scans: two hundredths of every label's voxels are known, the others belong to the nearest;
- a poor classifier on the same CT: the reference, warped by some mm and blurred.

With --search settings are drawn at random, and of each is told what it does to Dice on every second patient, of whose
scans the box around the structures is cut out; a preset is the draw of the highest mean over the kinds. Without, a
table tells what presets do to whole scans of these patients and of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

import medseg
from medseg.formats import read_segmentation
from medseg.geometry import Geometry
from medseg.metrics.surface import surface_dice, surface_distances
from medseg.model import Model
from medseg.pipeline import segment
from medseg.refine import PRESETS, CrfSettings, crf_refiner
from medseg.training.cases import Case, find_cases, read_image
from medseg.volume import Segmentation, Slab, Volume

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
# Of surface Dice: about a voxel.
TOLERANCE_MM = {"mr": 1.0, "ct": 3.0}
# Standard deviations of smoothness and of appearance in space, to draw from.
SDS_MM = {"mr": ((1.0, 2.0, 4.0), (2.0, 4.0, 8.0)), "ct": ((2.0, 4.0), (8.0, 16.0))}
SUNNYBROOK = {"image": "images/{slice}.png", "label": "labels/{slice}.png", "case": "{slice}", "group": "{patient}"}


@dataclass(frozen=True)
class Scored:
    """A scan, its reference, and the scores that a CRF is to refine: (labels, I, J, K), in the order of `indices`."""

    volume: Volume
    reference: Segmentation
    indices: tuple[int, ...]
    probabilities: torch.Tensor


@dataclass(frozen=True)
class Kind:
    """Scores of one origin."""

    name: str
    modality: str
    patients: Sequence[Sequence[Case]]
    score: Callable[[Volume, Segmentation], Scored]

    def scored(self, half: int) -> list[Scored]:
        """Of every second patient, from the first or the second on."""
        return [
            self.score(read_image(case), read_segmentation(case.label))
            for cases in self.patients[half::2]
            for case in cases
        ]


def present(reference: Segmentation) -> list[int]:
    """The labels that occur, besides background."""
    return [int(label) for label in np.unique(reference.array) if label]


def of_model(model: Model, volume: Volume, reference: Segmentation) -> Scored:
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
    # A picture's one label is the largest grey level.
    indices = model.labels.indices if len(model.labels.indices) > 1 else present(reference)
    return Scored(volume, reference, (0, *indices), scores)


def of_scribbles(volume: Volume, reference: Segmentation, share: float = 0.02) -> Scored:
    """Scores of the nearest scribble: certain on it, less so with the distance."""
    random = np.random.default_rng(0)
    distances = []
    for label in (0, *present(reference)):
        inside = np.argwhere(reference.array == label)
        chosen = random.choice(len(inside), max(int(share * len(inside)), 1), replace=False)
        elsewhere = np.ones(reference.array.shape, bool)
        elsewhere[tuple(inside[chosen].T)] = False
        distances.append(distance_transform_edt(elsewhere, sampling=reference.geometry.spacing_mm))
    scores = torch.tensor(-0.5 * np.stack(distances), dtype=torch.float32).softmax(0)
    return Scored(volume, reference, (0, *present(reference)), scores)


def of_poor_classifier(volume: Volume, reference: Segmentation, warp_mm: float = 4.0, blur_mm: float = 3.0) -> Scored:
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
    return Scored(volume, reference, (0, *present(reference)), scores / scores.sum(0))


def refined(scored: Scored, settings: CrfSettings) -> NDArray[np.int64]:
    slab = Slab(scored.probabilities, 2, 0, are_probabilities=True)
    parts = list(crf_refiner(settings)(iter([slab]), scored.volume))
    return labels_of(torch.cat([part.scores for part in parts], 3), scored)


def labels_of(scores: torch.Tensor, scored: Scored) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.array(scored.indices)[scores.argmax(0).numpy()]
    return found


def dice(scored: Scored, found: NDArray[np.int64]) -> float:
    """Mean over the labels of the reference."""
    values = []
    for label in present(scored.reference):
        truth, guess = scored.reference.array == label, found == label
        values.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return float(np.mean(values))


def surface(scored: Scored, found: NDArray[np.int64], tolerance_mm: float) -> float:
    """Mean surface Dice over the labels of the reference."""
    values = []
    for label in present(scored.reference):
        masks, spacing = (scored.reference.array == label, found == label), scored.volume.geometry.spacing_mm
        if found.shape[2] == 1:
            distances = surface_distances(masks[0][..., 0], masks[1][..., 0], spacing[:2])
        else:
            distances = surface_distances(*masks, spacing)
        values.append(surface_dice(distances, tolerance_mm))
    return float(np.mean(values))


def gather_mr(root: Path, models: Sequence[str], count: int) -> Iterator[Kind]:
    """Of at most `count` patients of each data set."""
    brains = [[case] for case in find_cases(root / "Task04_Hippocampus")[::5]]
    hearts = find_cases(root / "sunnybrook/cases.csv", SUNNYBROOK)
    patients = [
        [case for case in hearts if case.group == group] for group in sorted({str(c.group) for c in hearts})[::5]
    ]
    slices = [[cases[n * len(cases) // 4] for n in range(4)] for cases in patients]
    for name in models:
        model = medseg.load_model(name)
        groups = brains if model.info.accepts.dimensions == 3 else slices
        yield Kind(model.info.card.name, "mr", groups[:count], partial(of_model, model))
    yield Kind("scribbles, MR", "mr", brains[:count], of_scribbles)


def gather_ct(root: Path, models: Sequence[str], count: int) -> Iterator[Kind]:
    """As `gather_mr`."""
    necks = [[case] for case in find_cases(root / "headneck_ct") if case.name >= "kbp_201"][:count]
    for name in models:
        model = medseg.load_model(name)
        yield Kind(model.info.card.name, "ct", necks, partial(of_model, model))
    yield Kind("warped, CT", "ct", necks, of_poor_classifier)
    yield Kind("scribbles, CT", "ct", necks, of_scribbles)


def around_structures(scored: Scored, margin_mm: float = 20.0) -> Scored:
    """The box of the reference's labels and so much around it; geometries do not tell where it was."""
    inside = np.argwhere(scored.reference.array)
    geometry = scored.volume.geometry
    margin = np.ceil(margin_mm / np.array(geometry.spacing_mm)).astype(int)
    first = np.maximum(inside.min(0) - margin, 0)
    stop = np.minimum(inside.max(0) + 1 + margin, geometry.shape)
    box = tuple(slice(*ends) for ends in zip(first.tolist(), stop.tolist(), strict=True))
    smaller = Geometry(tuple((stop - first).tolist()), geometry.affine)
    return Scored(
        Volume(scored.volume.array[:, *box], smaller),
        replace(scored.reference, array=scored.reference.array[box], geometry=smaller),
        scored.indices,
        scored.probabilities[:, *box].contiguous(),
    )


def draw(random: np.random.Generator, modality: str) -> CrfSettings:
    # Of larger weights and wider kernels all that were drawn did harm.
    smoothness_mm, appearance_mm = SDS_MM[modality]
    return PRESETS[modality].model_copy(
        update={
            "smoothness_weight": float(random.choice([0.0, 0.3, 1.0])),
            "smoothness_sd": float(random.choice(smoothness_mm)),
            "appearance_weight": float(random.choice([0.1, 0.3, 1.0])),
            "appearance_sd": float(random.choice(appearance_mm)),
            "appearance_sd_value": float(random.choice([5.0, 10.0, 20.0, 40.0])),
        }
    )


def search(kinds: Sequence[Kind], draws: int, seed: int) -> None:
    """Print for every draw by how much it changes Dice: the mean over the kinds, the settings, and each kind's."""
    random, modality = np.random.default_rng(seed), kinds[0].modality
    cases = [[around_structures(scored) for scored in kind.scored(0)] for kind in kinds]
    before = [mean_dice(some, unrefined) for some in cases]
    for _ in range(draws):
        s = draw(random, modality)
        changes = [mean_dice(c, partial(refined, settings=s)) - b for c, b in zip(cases, before, strict=True)]
        shown = "  ".join(f"{kind.name} {change:+.4f}" for kind, change in zip(kinds, changes, strict=True))
        print(
            f"{np.mean(changes):+.4f}  smoothness {s.smoothness_weight:g}, {s.smoothness_sd:g} mm  appearance "
            f"{s.appearance_weight:g}, {s.appearance_sd:g} mm, {s.appearance_sd_value:g}  {shown}",
            flush=True,
        )


def unrefined(scored: Scored) -> NDArray[np.int64]:
    return labels_of(scored.probabilities, scored)


def mean_dice(cases: Sequence[Scored], find: Callable[[Scored], NDArray[np.int64]]) -> float:
    return float(np.mean([dice(s, find(s)) for s in cases]))


def report(kind: Kind, ways: dict[str, CrfSettings]) -> None:
    """Print a row for every way, and one without a CRF."""
    finders: dict[str, Callable[[Scored], NDArray[np.int64]]] = {"none": unrefined}
    finders |= {name: partial(refined, settings=settings) for name, settings in ways.items()}
    halves = kind.scored(0), kind.scored(1)
    for name, find in finders.items():
        values = []
        for cases in halves:
            found = [find(s) for s in cases]
            values.append(np.mean([dice(s, x) for s, x in zip(cases, found, strict=True)]))
            tolerance = TOLERANCE_MM[kind.modality]
            values.append(np.mean([surface(s, x, tolerance) for s, x in zip(cases, found, strict=True)]))
        shown = " | ".join(f"{value:.4f}" for value in values)
        print(f"| {kind.name} | {len(halves[0])} + {len(halves[1])} | {name} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mr", action="append", default=[], metavar="MODEL")
    parser.add_argument("--ct", action="append", default=[], metavar="MODEL")
    parser.add_argument("--cases", type=int, default=20, metavar="PATIENTS")
    parser.add_argument("--search", type=int, default=0, metavar="DRAWS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", action="append", default=[], help="Reported beside the modality's own.")
    parser.add_argument("--only", action="append", choices=["mr", "ct"])
    parser.add_argument("--data", type=Path, default=SHARED)
    arguments = parser.parse_args()
    for modality in arguments.only or ("mr", "ct"):
        gather, models = (gather_mr, arguments.mr) if modality == "mr" else (gather_ct, arguments.ct)
        kinds = list(gather(arguments.data, models, arguments.cases))
        if arguments.search:
            search(kinds, arguments.search, arguments.seed)
            continue
        print(f"| scores of | scans | CRF | Dice | surface Dice at {TOLERANCE_MM[modality]:g} mm | of others | |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for kind in kinds:
            report(kind, {name: PRESETS[name] for name in (modality, *arguments.preset)})


if __name__ == "__main__":
    main()
