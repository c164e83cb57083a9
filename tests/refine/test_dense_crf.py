from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.ndimage import zoom

from medseg.refine import dense_crf
from tests.refine.exact import disagreement, exact_dense_crf, mean_kl, noisy_scene

SETTINGS: dict[str, Any] = {
    "smoothness_weight": 3.0,
    "smoothness_sd_mm": 3.0,
    "appearance_weight": 10.0,
    "appearance_sd_mm": 30.0,
    "appearance_sd_value": 13.0,
}


def refine_both(shape: tuple[int, ...], labels: int, channels: int = 1, **changes: Any) -> tuple[torch.Tensor, ...]:
    """The probabilities, the exact mean field's answer, and ours."""
    image, probabilities = noisy_scene(shape, labels, channels)
    settings = {"spacing_mm": [1.0] * len(shape), **SETTINGS, **changes}
    ours = {key: settings.pop(key) for key in ("accurate",) if key in settings}
    exact = exact_dense_crf(probabilities, image, **settings)
    return probabilities, exact, dense_crf(probabilities, image, **settings, **ours)


@pytest.mark.parametrize(
    ("shape", "sd", "kl", "share"),
    [
        ((56, 48), 60.0, 2e-4, 2e-3),
        ((56, 48), 12.0, 2e-4, 2e-3),
        ((56, 48), 3.0, 2e-4, 2e-3),
        ((16, 20, 12), 15.0, 2e-4, 2.5e-3),
        ((16, 20, 12), 5.0, 2e-4, 2.5e-3),
    ],
)
def test_one_channel_agrees_with_the_exact_mean_field(
    shape: tuple[int, ...], sd: float, kl: float, share: float
) -> None:
    before, exact, found = refine_both(shape, 4, appearance_sd_mm=sd)
    assert disagreement(before, exact) > 0.2, "the CRF must have something to do"
    assert mean_kl(exact, found) <= kl
    assert disagreement(exact, found) <= share


@pytest.mark.parametrize(("accurate", "kl"), [(False, 2e-3), (True, 1e-3)])
@pytest.mark.parametrize("channels", [3, 4])
def test_several_channels_agree_with_the_exact_mean_field(channels: int, accurate: bool, kl: float) -> None:
    _, exact, found = refine_both((48, 40), 5, channels, accurate=accurate, iterations=10)
    assert mean_kl(exact, found) <= kl
    assert disagreement(exact, found) <= 5e-3


def test_four_channels_in_3d_agree_with_the_exact_mean_field() -> None:
    _, exact, found = refine_both((14, 12, 10), 3, 4, accurate=True)
    assert mean_kl(exact, found) <= 1e-3
    assert disagreement(exact, found) <= 5e-3


def test_accurate_lattice_has_a_smaller_error_than_the_usual_one() -> None:
    errors = []
    for accurate in (False, True):
        _, exact, found = refine_both((48, 40), 5, 3, accurate=accurate, iterations=10, appearance_sd_mm=80.0)
        errors.append(mean_kl(exact, found))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("normalization", ["before", "after", "none"])
def test_other_normalizations_agree_with_the_exact_mean_field(normalization: str) -> None:
    # Without normalisation a message is a sum over hundreds of pixels, so its weight is that much smaller.
    weights = {"smoothness_weight": 0.02, "appearance_weight": 0.005} if normalization == "none" else {}
    before, exact, found = refine_both((40, 36), 3, normalization=normalization, **weights)
    assert disagreement(before, exact) > 0.1
    assert mean_kl(exact, found) <= 2e-3
    assert disagreement(exact, found) <= 3e-3


def test_compatibility_matrix_agrees_with_the_exact_mean_field() -> None:
    matrix = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 2.0], [0.5, 1.5, 0.1]])
    _, exact, found = refine_both((40, 36), 3, compatibility=matrix)
    _, potts, _ = refine_both((40, 36), 3)
    assert disagreement(exact, potts) > 0.01, "the matrix must matter"
    assert mean_kl(exact, found) <= 5e-4


def test_potts_is_the_matrix_of_ones_off_the_diagonal() -> None:
    image, p = noisy_scene((30, 20), 3)
    potts = dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS)
    matrix = dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS, compatibility=1 - torch.eye(3))
    torch.testing.assert_close(potts, matrix, atol=1e-4, rtol=0)


def test_no_iterations_leave_the_probabilities_as_they_are() -> None:
    image, p = noisy_scene((12, 10), 3)
    torch.testing.assert_close(dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS, iterations=0), p)


@pytest.mark.parametrize("sd", [0.1, 0.7, 1.6])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_sd_is_right(sd: float, channels: int) -> None:
    _, exact, found = refine_both((24, 30), 3, channels, appearance_sd_mm=sd, smoothness_sd_mm=sd, accurate=True)
    assert torch.isfinite(found).all()
    assert disagreement(exact, found) <= 0.01


@pytest.mark.parametrize("shape", [(6, 10, 22), (22, 10, 6), (1, 24, 30), (24, 30, 1), (1, 1, 40)])
def test_volumes_with_unequal_axes_are_right(shape: tuple[int, ...]) -> None:
    _, exact, found = refine_both(shape, 3)
    assert mean_kl(exact, found) <= 5e-4
    assert disagreement(exact, found) <= 5e-3


def test_a_plane_gives_the_same_in_2d_and_as_a_volume_of_one_slice() -> None:
    image, p = noisy_scene((24, 30), 3)
    flat = dense_crf(p, image, spacing_mm=(1.5, 2.0), **SETTINGS)
    deep = dense_crf(p[..., None], image[..., None], spacing_mm=(1.5, 2.0, 7.0), **SETTINGS)
    torch.testing.assert_close(deep[..., 0], flat, atol=1e-5, rtol=0)


def test_swapping_axes_swaps_the_result() -> None:
    image, p = noisy_scene((10, 14, 18), 3)
    straight = dense_crf(p, image, spacing_mm=(1.0, 2.0, 3.0), **SETTINGS)
    turned = dense_crf(p.permute(0, 3, 1, 2), image.permute(0, 3, 1, 2), spacing_mm=(3.0, 1.0, 2.0), **SETTINGS)
    torch.testing.assert_close(turned.permute(0, 2, 3, 1), straight, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (40.0, -3000.0), (1.0, 1e5)])
def test_result_does_not_depend_on_the_unit_of_intensity(scale: float, offset: float) -> None:
    image, p = noisy_scene((40, 30), 3)
    plain = dense_crf(p, image, spacing_mm=(1, 1), **SETTINGS)
    other = dense_crf(
        p,
        (image.double() * scale + offset).float(),
        spacing_mm=(1, 1),
        **(SETTINGS | {"appearance_sd_value": 13.0 * scale}),
    )
    assert float((plain - other).abs().max()) < 0.02
    assert disagreement(plain, other) <= 2e-3


def test_integer_images_and_constant_images_are_accepted() -> None:
    image, p = noisy_scene((30, 20), 3)
    whole = dense_crf(p, image.to(torch.int16), spacing_mm=(1, 1), **SETTINGS)
    torch.testing.assert_close(whole, dense_crf(p, image.to(torch.int16).float(), spacing_mm=(1, 1), **SETTINGS))
    flat = torch.full_like(image, 7.0)
    exact = exact_dense_crf(p, flat, spacing_mm=(1, 1), **SETTINGS)
    assert disagreement(exact, dense_crf(p, flat, spacing_mm=(1, 1), **SETTINGS)) <= 2e-3


def test_sd_in_mm_means_that_resampled_anatomy_is_refined_alike() -> None:
    image, p = noisy_scene((32, 32, 16), 3, noise=1.0)
    # The same anatomy with slices half as far apart: every voxel twice, as nearest interpolation gives.
    twice = [torch.tensor(zoom(t.numpy(), (1, 1, 1, 2), order=0)) for t in (image, p)]
    near = SETTINGS | {"appearance_sd_mm": 5.0, "appearance_sd_value": 40.0}
    thick = dense_crf(p, image, spacing_mm=(1.0, 1.0, 2.0), **near)
    thin = dense_crf(twice[1], twice[0], spacing_mm=(1.0, 1.0, 1.0), **near)
    assert disagreement(p, thick) > 0.2
    assert disagreement(thick, thin[..., ::2]) <= 0.01
    wrong = dense_crf(twice[1], twice[0], spacing_mm=(1.0, 1.0, 20.0), **near)
    assert disagreement(thick, wrong[..., ::2]) > 0.03, "lengths must matter"


def test_half_precision_and_zeros_are_accepted() -> None:
    image, p = noisy_scene((30, 20), 3)
    hard = torch.nn.functional.one_hot(p.argmax(0), 3).movedim(-1, 0).half()
    found = dense_crf(hard, image, spacing_mm=(1, 1), **SETTINGS)
    assert found.dtype == torch.float16
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": torch.full((3, 8, 8), 0.2)}, r"sum to 0\.6"),
        ({"probabilities": torch.full((3, 8, 8), torch.nan)}, "192 values that are NaN"),
        ({"image": torch.full((1, 8, 8), torch.inf)}, "64 values that are NaN or infinite"),
        ({"image": torch.zeros(1, 8, 9)}, r"\(3, 8, 8\).*\(1, 8, 9\)"),
        ({"probabilities": torch.ones(1, 8, 8)}, "1 label"),
        ({"probabilities": torch.ones(3, 8) / 3, "image": torch.zeros(1, 8)}, r"shape \(3, 8\)"),
        ({"smoothness_sd_mm": 0.0}, "smoothness_sd_mm is 0.0"),
        ({"appearance_sd_mm": -2.0}, "appearance_sd_mm is -2.0"),
        ({"appearance_sd_value": 0.0}, "appearance_sd_value is 0.0"),
        ({"appearance_sd_value": [3.0, 4.0]}, "2 entries, the image 1 channels"),
        ({"spacing_mm": (1.0, 0.0)}, r"spacing_mm is \(1.0, 0.0\)"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "3 entries, the image 2 axes"),
        ({"compatibility": torch.eye(2)}, r"\(2, 2\), expected \(3, 3\)"),
        ({"iterations": -1}, "iterations is -1"),
    ],
)
def test_bad_input_is_refused_with_its_numbers(change: dict[str, Any], message: str) -> None:
    call = {"probabilities": torch.full((3, 8, 8), 1 / 3), "image": torch.zeros(1, 8, 8), "spacing_mm": (1.0, 1.0)}
    call |= {**SETTINGS, **change}
    with pytest.raises(ValueError, match=message):
        dense_crf(call.pop("probabilities"), call.pop("image"), **call)


def test_an_image_of_more_values_than_can_be_numbered_is_refused() -> None:
    image, p = noisy_scene((8, 8), 2, 4)
    with pytest.raises(ValueError, match="too many to number"):
        dense_crf(p, image, spacing_mm=(1, 1), **(SETTINGS | {"appearance_sd_value": 1e-4}))
