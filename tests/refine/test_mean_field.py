from __future__ import annotations

from typing import Any

import pytest
import torch

from medseg.refine import MeanField, dense_crf
from medseg.refine.lattice import ACCURATE, USUAL, Lattice
from medseg.refine.operators import Kernel, _Apply
from tests.refine.exact import kernel_matrix, noisy_scene

SETTINGS: dict[str, Any] = {"smoothness_sd_mm": 1.5, "appearance_sd_mm": 3.0, "appearance_sd_value": 20.0}


@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_to_unary_weights_and_compatibility_are_those_of_finite_differences(channels: int) -> None:
    image, p = noisy_scene((6, 5), 3, channels)
    logits = p.double().log().requires_grad_()
    weights = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in (1.2, 0.8)]
    matrix = (1 - torch.eye(3, dtype=torch.float64) + 0.1).requires_grad_()

    def refine(u: torch.Tensor, smooth: torch.Tensor, alike: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        return dense_crf(
            u.softmax(0), image, spacing_mm=(1, 1), smoothness_weight=smooth, appearance_weight=alike,
            compatibility=penalty, iterations=2, **SETTINGS,
        )  # fmt: skip

    assert torch.autograd.gradcheck(refine, (logits, *weights, matrix))


def test_gradients_in_3d_are_those_of_finite_differences() -> None:
    image, p = noisy_scene((3, 4, 3), 2)
    logits = p.double().log().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: dense_crf(
            u.softmax(0),
            image,
            spacing_mm=(1, 1, 2),
            smoothness_weight=1.0,
            appearance_weight=1.0,
            iterations=2,
            **SETTINGS,
        ),
        (logits,),
    )


@pytest.mark.parametrize("mode", [USUAL, ACCURATE])
def test_backward_of_the_lattice_is_its_transpose_although_blurs_do_not_commute(mode: Any) -> None:
    features = 3 * torch.rand(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lattice = Lattice(features, torch.float64, mode)
    identity = torch.eye(40, dtype=torch.float64)
    forward, backward = lattice.apply(identity), lattice.adjoint(identity)
    torch.testing.assert_close(backward, forward.T)
    if mode is USUAL:
        assert not torch.allclose(forward, forward.T), "missing vertices must make the order matter"


def test_lattice_has_the_kernels_own_mass_where_pixels_are_dense() -> None:
    axes = torch.meshgrid(*[torch.arange(40, dtype=torch.float64) / 5] * 2, indexing="ij")
    features = torch.stack(axes).reshape(2, -1)
    middle = 40 * 20 + 20
    ones = torch.ones(1, 1600, dtype=torch.float64)
    exact = float(kernel_matrix(features.T)[middle].sum())
    assert float(Lattice(features, torch.float64, ACCURATE).apply(ones)[0, middle]) == pytest.approx(exact, rel=0.03)


def test_network_below_the_crf_receives_gradients_in_single_precision() -> None:
    image, p = noisy_scene((24, 20), 3, 3)
    logits = p.log()[None].requires_grad_()
    layer = MeanField(3, iterations=3)
    layer(logits, image[None]).square().mean().backward()
    for tensor in (logits, *layer.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().max() > 0


def test_layer_starts_from_the_papers_weights_and_iterates_longer_in_prediction() -> None:
    layer = MeanField(4)
    torch.testing.assert_close(layer.spatial_weights.data, 3 * torch.eye(4))
    torch.testing.assert_close(layer.bilateral_weights.data, 5 * torch.eye(4))
    torch.testing.assert_close(layer.compatibility.data, 1 - torch.eye(4))
    image, p = noisy_scene((24, 20), 4, 3)
    logits = p.log()[None]
    layer.eval()
    ten = layer(logits, image[None]).softmax(1)[0]
    assert layer.iterations == 5
    expected = dense_crf(
        p, image, spacing_mm=(1, 1), smoothness_weight=3.0, smoothness_sd_mm=3.0, appearance_weight=5.0,
        appearance_sd_mm=160.0, appearance_sd_value=3.0, iterations=10, normalization="after",
    )  # fmt: skip
    torch.testing.assert_close(ten, expected, atol=1e-4, rtol=0)
    layer.train()
    assert not torch.allclose(layer(logits, image[None]).softmax(1)[0], ten, atol=1e-4)


def test_layer_with_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="1 class"):
        MeanField(1)


def test_images_of_a_batch_are_refined_on_their_own() -> None:
    layer = MeanField(3)
    scenes = [noisy_scene((16, 12), 3, 1, seed) for seed in (0, 1)]
    image, logits = torch.stack([s[0] for s in scenes]), torch.stack([s[1].log() for s in scenes])
    together = layer(logits, image)
    torch.testing.assert_close(together[1:], layer(logits[1:], image[1:]))


def test_constant_operator_gets_no_gradient() -> None:
    x = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)

    class Twice:
        def apply(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        adjoint = apply

    assert torch.autograd.gradcheck(lambda t: _Apply.apply(t, Twice()), (x,))
    assert torch.equal(Kernel(Twice(), None, None)(x), 2 * x)
