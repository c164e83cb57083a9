from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from medseg.refine import crf, dense_crf
from medseg.refine.appearance import LatticePlan, plan_appearance
from medseg.refine.compiled_lattice import CompiledLattice
from medseg.refine.lattice import ACCURATE, USUAL, Lattice
from medseg.refine.layout_kernels import log_in_place
from medseg.refine.threads import WORTH_A_THREAD, spans, team
from medseg.refine.update_kernels import exp_in_place
from tests.refine.exact import noisy_scene

SETTINGS: dict[str, Any] = {
    "smoothness_weight": 3.0,
    "smoothness_sd_mm": 3.0,
    "appearance_weight": 10.0,
    "appearance_sd_mm": 15.0,
    "appearance_sd_value": 13.0,
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "labels", "channels"),
    [
        ((40, 36), 4, 1),
        ((30, 36), 2, 3),
        ((30, 36), 6, 3),
        ((12, 14, 10), 2, 1),
        ((12, 14, 10), 7, 1),
        ((12, 24, 10), 7, 1),
        ((12, 10, 17), 5, 1),
        ((18, 10, 3), 3, 3),
        ((1, 30, 20), 3, 1),
        ((30, 1, 20), 3, 2),
        ((7, 6, 5), 3, 4),
    ],
)
def test_compiled_mean_field_is_that_of_torch(
    shape: tuple[int, ...], labels: int, channels: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, p = noisy_scene(shape, labels, channels)
    torch.set_num_threads(count)
    call = {"spacing_mm": [1.0] * len(shape), **SETTINGS}
    compiled = dense_crf(p, image, **call)
    monkeypatch.setattr(crf, "_is_compilable", lambda *_: False)
    torch.testing.assert_close(compiled, dense_crf(p, image, **call), atol=2e-5, rtol=0)


def test_single_precision_on_the_cpu_is_compiled_and_a_graph_is_not() -> None:
    _, p = noisy_scene((16, 12), 3)
    assert crf._is_compilable(p, (3.0, 10.0))
    assert not crf._is_compilable(p.double(), (3.0, 10.0))
    assert not crf._is_compilable(p.clone().requires_grad_(), (3.0, 10.0))
    assert not crf._is_compilable(p, (3.0, torch.tensor(10.0, requires_grad=True)))
    with torch.no_grad():
        assert crf._is_compilable(p.clone().requires_grad_(), (3.0, 10.0))


@pytest.mark.parametrize("mode", [USUAL, ACCURATE])
def test_compiled_lattice_is_that_of_torch_forwards_and_backwards(mode: Any) -> None:
    image, p = noisy_scene((26, 22), 5, 3)
    plan = plan_appearance(image, (8.0, 8.0), (13.0, 20.0, 9.0), accurate=False)
    assert isinstance(plan, LatticePlan)
    compiled = CompiledLattice(plan.features, 22, mode)
    plain = Lattice(plan.features, torch.float32, mode)
    assert compiled.vertices == plain.vertices
    x = p.flatten(1)
    torch.testing.assert_close(compiled.apply(x), plain.apply(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.adjoint(x), plain.adjoint(x), rtol=1e-4, atol=1e-4)
    if mode is USUAL:
        assert not torch.allclose(compiled.apply(x), compiled.adjoint(x), rtol=1e-3)


def test_inputs_are_left_as_they_are() -> None:
    image, p = noisy_scene((16, 12), 3)
    image_before, p_before = image.clone(), p.clone()
    dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS)
    assert torch.equal(p, p_before)
    assert torch.equal(image, image_before)


def test_exponential_is_exact_to_single_precision() -> None:
    x = -np.linspace(0, 87, 10_000, dtype=np.float32)
    expected = np.exp(x.astype(np.float64))
    exp_in_place(x, x.size)
    np.testing.assert_allclose(x, expected, rtol=3e-7)
    far = np.full(16, -1e30, np.float32)
    exp_in_place(far, 16)
    assert (far < 1e-37).all()


def test_logarithm_is_exact_to_single_precision() -> None:
    x = np.geomspace(1.2e-38, 1, 10_000, dtype=np.float32)
    expected = np.log(x.astype(np.float64))
    log_in_place(x, x.size)
    np.testing.assert_allclose(x, expected, rtol=3e-7, atol=1e-7)
    zero = np.zeros(16, np.float32)
    log_in_place(zero, 16)
    assert (zero < -87).all()


@pytest.mark.parametrize(("length", "parts"), [(10, 3), (2, 5), (1, 1), (7, 7)])
def test_spans_cover_the_length_once(length: int, parts: int) -> None:
    found = spans(length, parts)
    assert [i for first, last in found for i in range(first, last)] == list(range(length))
    assert len(found) == min(length, parts)


@pytest.mark.parametrize("share", ["0 to 2", "2 to 4"])
def test_an_error_in_a_thread_reaches_the_caller(share: str, threads: None) -> None:
    torch.set_num_threads(2)

    def fail(first: int, last: int) -> None:
        if share == f"{first} to {last}":
            raise ValueError(share)

    with team() as workers, pytest.raises(ValueError, match=share):
        workers.share(4, fail)


def test_work_on_few_numbers_wakes_no_thread(threads: None) -> None:
    torch.set_num_threads(2)
    seen: list[tuple[int, int]] = []
    with team() as workers:
        for numbers in (WORTH_A_THREAD - 1, WORTH_A_THREAD):
            workers.share(4, lambda first, last: seen.append((first, last)), numbers)
    assert seen[0] == (0, 4)
    assert sorted(seen[1:]) == [(0, 2), (2, 4)]


def test_pruning_to_one_label_leaves_it_certain() -> None:
    image, _ = noisy_scene((12, 10), 2)
    p = torch.stack((torch.full((12, 10), 1 - 1e-6), torch.full((12, 10), 1e-6)))
    found = dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS, prune=0.01)
    assert (found[0] == 1).all()
    assert (found[1] == 0).all()
