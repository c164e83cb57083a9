from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from medseg.config import ScaleIntensityPercentiles, ScaleIntensityRange
from medseg.errors import ConfigError
from medseg.geometry import Geometry
from medseg.refine import PRESETS, CrfSettings, crf_refiner, dense_crf, streaming
from medseg.refine.pruning import plan_pruning
from medseg.volume import Slab, Volume
from tests.refine.exact import disagreement, noisy_scene

SETTINGS = CrfSettings(appearance_sd=4.0, appearance_sd_value=13.0, smoothness_sd=2.0, prune=0.0)
SPACING = (1.0, 1.0, 2.0)


def scan(image: torch.Tensor) -> Volume:
    return Volume(image.numpy(), Geometry(image.shape[1:], np.diag([*SPACING, 1.0])))


def slabs(p: torch.Tensor, axis: int, planes: int) -> Iterator[Slab]:
    logits = p.log()
    for start in range(0, p.shape[1 + axis], planes):
        yield Slab(logits.narrow(1 + axis, start, min(planes, p.shape[1 + axis] - start)), axis, start)


def whole(p: torch.Tensor, image: torch.Tensor, settings: CrfSettings = SETTINGS) -> torch.Tensor:
    return dense_crf(
        p,
        image,
        spacing_mm=SPACING,
        smoothness_weight=settings.smoothness_weight,
        smoothness_sd_mm=settings.smoothness_sd,
        appearance_weight=settings.appearance_weight,
        appearance_sd_mm=settings.appearance_sd,
        appearance_sd_value=settings.appearance_sd_value,
    )


@pytest.mark.parametrize("axis", [0, 2])
def test_streamed_planes_are_those_of_the_whole_volume(axis: int) -> None:
    shape = (100, 24, 24) if axis == 0 else (24, 24, 60)
    image, p = noisy_scene(shape, 3, noise=1.0)
    before, at_once = p.argmax(0), whole(p, image).argmax(0)
    refined = list(crf_refiner(SETTINGS)(slabs(p, axis, 7), scan(image)))
    assert len(refined) > 2, "the volume must take several windows"
    assert [s.start for s in refined] == [0, *(s.stop for s in refined[:-1])]
    assert all(s.are_probabilities for s in refined)
    streamed = torch.cat([s.scores for s in refined], 1 + axis).argmax(0)
    changed = (before != at_once).sum()
    assert changed > 0.1 * before.numel()
    assert (streamed != at_once).sum() <= 0.005 * changed


def test_planes_that_come_from_the_last_to_the_first_are_refined_alike() -> None:
    image, p = noisy_scene((24, 24, 60), 3, noise=1.0)
    upward = torch.cat([s.scores for s in crf_refiner(SETTINGS)(slabs(p, 2, 1), scan(image))], 3)
    downward = list(crf_refiner(SETTINGS)(iter([*slabs(p, 2, 1)][::-1]), scan(image)))
    assert downward[0].stop == 60
    assert all(later.stop == earlier.start for earlier, later in pairwise(downward))
    refined = torch.cat([s.scores for s in downward[::-1]], 3)
    changed = (p.argmax(0) != upward.argmax(0)).sum()
    assert (refined.argmax(0) != upward.argmax(0)).sum() <= 0.005 * changed


def test_memory_depends_on_the_window_and_not_on_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = []

    def record(p: torch.Tensor, image: torch.Tensor, **_: object) -> torch.Tensor:
        assert p.shape[1:] == image.shape[1:]
        deepest.append(p.shape[3])
        return p

    monkeypatch.setattr(streaming, "dense_crf", record)
    depths = {}
    for depth in (100, 400):
        deepest.clear()
        image, p = torch.zeros(1, 4, 4, depth), torch.full((2, 4, 4, depth), 0.5)
        refined = list(crf_refiner(SETTINGS)(slabs(p, 2, 8), scan(image)))
        assert sum(s.scores.shape[3] for s in refined) == depth
        depths[depth] = max(deepest)
    assert depths[400] == depths[100] < 100


def test_planes_that_no_slab_brings_part_the_volume() -> None:
    image, p = noisy_scene((20, 16, 30), 3)
    parts = [(0, 10), (18, 30)]
    given = (Slab(p[..., a:b], 2, a, are_probabilities=True) for a, b in parts)
    refined = list(crf_refiner(SETTINGS)(given, scan(image)))
    assert [(s.start, s.stop) for s in refined] == parts
    for slab, (a, b) in zip(refined, parts, strict=True):
        torch.testing.assert_close(slab.scores, whole(p[..., a:b], image[..., a:b]))


def test_intensities_outside_the_window_are_clipped_and_scaled() -> None:
    image, p = noisy_scene((12, 10, 8), 3)
    settings = SETTINGS.model_copy(update={"intensity": ScaleIntensityRange(low=50, high=150)})
    (slab,) = crf_refiner(settings)(slabs(p, 2, 8), scan(image))
    levels = ((image - 50) * 2.55).clamp(0, 255)
    torch.testing.assert_close(slab.scores, whole(p, levels), atol=1e-3, rtol=0)


def test_percentiles_make_the_unit_of_intensity_irrelevant_and_nan_is_bridged() -> None:
    image, p = noisy_scene((12, 10, 8), 3)
    settings = SETTINGS.model_copy(update={"intensity": ScaleIntensityPercentiles()})
    found = [next(crf_refiner(settings)(slabs(p, 2, 8), scan(i))).scores for i in (image, 0.01 * image + 7)]
    torch.testing.assert_close(found[0], found[1], atol=1e-2, rtol=0)
    image[0, 0, 0, 0] = torch.nan
    assert torch.isfinite(next(crf_refiner(SETTINGS)(slabs(p, 2, 8), scan(image))).scores).all()


def test_every_preset_refines_and_an_unknown_one_is_refused() -> None:
    image, p = noisy_scene((16, 14, 1), 3)
    for name in PRESETS:
        (slab,) = crf_refiner(name)(slabs(p, 2, 1), scan(image))
        torch.testing.assert_close(slab.scores.sum(0), torch.ones(16, 14, 1))
    with pytest.raises(ConfigError, match=r"'lung'.*common"):
        crf_refiner("lung")


def test_intensities_that_a_lattice_cannot_span_are_refused_in_one_line() -> None:
    image, p = noisy_scene((12, 10, 8), 3)
    settings = SETTINGS.model_copy(update={"appearance_sd_value": 1e-4})
    with pytest.raises(ConfigError, match=r"settings do not suit this scan: .* raise appearance_sd_value"):
        list(crf_refiner(settings)(slabs(p, 2, 8), scan(image)))


def test_pruned_labels_change_no_probability_by_more_than_a_hundredth(caplog: pytest.LogCaptureFixture) -> None:
    image, likely = noisy_scene((40, 36), 3)
    rare = torch.full((6, 40, 36), 1e-4) * torch.rand(6, 40, 36, generator=torch.Generator().manual_seed(0))
    p = torch.cat((likely * (1 - rare.sum(0)), rare))
    settings = {"smoothness_weight": 3.0, "smoothness_sd_mm": 3.0, "appearance_weight": 10.0}
    settings |= {"appearance_sd_mm": 30.0, "appearance_sd_value": 13.0}
    with caplog.at_level("INFO"):
        pruned = dense_crf(p, image, spacing_mm=(1, 1), **settings, prune=0.01)
    assert "keeps 3 of 9 labels" in caplog.text
    assert (pruned[3:] == 0).all()
    torch.testing.assert_close(pruned.sum(0), torch.ones(40, 36))
    full = dense_crf(p, image, spacing_mm=(1, 1), **settings)
    assert float((pruned - full).abs().max()) <= 0.01
    assert disagreement(pruned, full) == 0


def test_pruning_bound_holds_and_a_label_that_may_grow_is_kept() -> None:
    _, p = noisy_scene((20, 20), 2)
    faint = torch.full((1, 20, 20), 0.002)
    strong = torch.zeros(1, 20, 20)
    strong[0, :3, :3] = 0.2
    p = torch.cat((p * (1 - faint - strong), faint, strong)).flatten(1)

    plan = plan_pruning(p, 2.0, iterations=5, tolerance=0.05)
    assert plan.kept == (0, 1, 3)
    assert 0.002 <= plan.bound <= 0.05
    assert plan_pruning(p, 200.0, iterations=5, tolerance=0.05).kept == (0, 1, 2, 3)
