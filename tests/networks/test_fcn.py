import pytest
import torch
from torch.nn import functional

from medseg.networks import build

SMALL = {"width": 1 / 16, "head_channels": 8}


def network(name, **settings):
    """Small, with all weights and offsets at random, deconvolutions among them."""
    torch.manual_seed(0)
    built = build(name, spatial_dims=2, in_channels=3, num_classes=4, **{**SMALL, "zero_scores": False, **settings})
    with torch.no_grad():
        for key, p in built.named_parameters():
            if key.endswith("bias"):
                p.normal_(std=0.1)
            elif "up" in key:
                p.normal_(std=0.2)
    return built.eval()


def authors_maps(p, x):
    """The Caffe network up to fc7: pooled maps 3 to 5, and the map that score_fr classifies."""
    maps = []
    for block, count in enumerate((2, 2, 3, 3, 3)):
        for number in range(count):
            x = functional.conv2d(x, next(p), next(p), padding=100 if block == number == 0 else 1).relu()
        x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
        maps.append(x)
    x = functional.conv2d(x, next(p), next(p)).relu()
    x = functional.conv2d(x, next(p), next(p)).relu()
    return maps[2], maps[3], x


@pytest.mark.parametrize("size", [(45, 61), (1, 7)])
def test_fcn32s_is_the_release_layer_by_layer(size):
    fcn, x = network("fcn32s"), torch.randn(2, 3, *size)
    p = iter(fcn.parameters())
    _, _, fc7 = authors_maps(p, x)
    score = functional.conv2d(fc7, next(p), next(p))
    upscore = functional.conv_transpose2d(score, next(p), stride=32)
    torch.testing.assert_close(fcn(x), upscore[:, :, 19 : 19 + size[0], 19 : 19 + size[1]])


@pytest.mark.parametrize("size", [(45, 61), (1, 7)])
def test_fcn16s_is_the_release_layer_by_layer(size):
    fcn, x = network("fcn16s"), torch.randn(2, 3, *size)
    p = iter(fcn.parameters())
    _, pool4, fc7 = authors_maps(p, x)
    upscore2 = functional.conv_transpose2d(functional.conv2d(fc7, next(p), next(p)), next(p), stride=2)
    score_pool4 = functional.conv2d(pool4, next(p), next(p))
    i, j = upscore2.shape[2:]
    fused = upscore2 + score_pool4[:, :, 5 : 5 + i, 5 : 5 + j]
    upscore16 = functional.conv_transpose2d(fused, next(p), stride=16)
    torch.testing.assert_close(fcn(x), upscore16[:, :, 27 : 27 + size[0], 27 : 27 + size[1]])


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("size", [(45, 61), (1, 7)])
def test_fcn8s_is_the_release_layer_by_layer(size, at_once):
    fcn, x = network("fcn8s", at_once=at_once), torch.randn(2, 3, *size)
    p = iter(fcn.parameters())
    pool3, pool4, fc7 = authors_maps(p, x)
    upscore2 = functional.conv_transpose2d(functional.conv2d(fc7, next(p), next(p)), next(p), stride=2)
    score_pool4 = functional.conv2d(pool4 * (0.01 if at_once else 1), next(p), next(p))
    i, j = upscore2.shape[2:]
    upscore_pool4 = functional.conv_transpose2d(upscore2 + score_pool4[:, :, 5 : 5 + i, 5 : 5 + j], next(p), stride=2)
    score_pool3 = functional.conv2d(pool3 * (0.0001 if at_once else 1), next(p), next(p))
    i, j = upscore_pool4.shape[2:]
    fused = upscore_pool4 + score_pool3[:, :, 9 : 9 + i, 9 : 9 + j]
    upscore8 = functional.conv_transpose2d(fused, next(p), stride=8)
    torch.testing.assert_close(fcn(x), upscore8[:, :, 31 : 31 + size[0], 31 : 31 + size[1]])
    torch.testing.assert_close(fcn.forward_features(x), fused)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_scores_start_at_zero_and_deconvolutions_stay_bilinear(name):
    fcn = build(name, spatial_dims=2, in_channels=3, num_classes=4, **SMALL)
    assert fcn(torch.randn(1, 3, 9, 9)).abs().max() == 0
    ups = {key: p for key, p in fcn.named_parameters() if "up" in key}
    assert len(ups) == {"fcn32s": 1, "fcn16s": 2, "fcn8s": 3}[name]
    assert not any(p.requires_grad for p in ups.values())
    # Bilinear interpolation as Caffe's filler has it: 1 - |i / f - c|.
    f = ups["upscore.weight"].shape[-1] // 2
    line = 1 - (torch.arange(2 * f) / f - (2 * f - 1 - f % 2) / (2 * f)).abs()
    torch.testing.assert_close(ups["upscore.weight"][2, 2], line[:, None] * line)
    assert ups["upscore.weight"][2, 1].abs().max() == 0


@pytest.mark.parametrize("upsampling", ["dense", "per_class"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_equal_scores_give_logits_symmetric_about_the_image_s_centre(spatial_dims, upsampling):
    settings = {**SMALL, "upsampling": upsampling, "padding": "same", "fc6_kernel": 3, "strides": (2, 2, 1, 2, 2)}
    fcn = build("fcn8s", spatial_dims=spatial_dims, in_channels=1, num_classes=2, **settings)
    fcn.score.register_forward_hook(lambda *_: torch.ones(1, 2, *[2] * spatial_dims))
    logits = fcn(torch.randn(1, 1, *[32] * spatial_dims))  # the skips' scores are still zero
    torch.testing.assert_close(logits, logits.flip(-1))
    torch.testing.assert_close(logits, logits.flip(2))
    assert logits[(0, 0, *[16] * spatial_dims)] == 1 > logits[(0, 0, *[0] * spatial_dims)]


def test_same_padding_covers_images_of_any_size():
    fcn = network("fcn8s", padding="same", fc6_kernel=3)
    for size in [(1, 1), (31, 65), (8, 200)]:
        assert fcn(torch.randn(1, 3, *size)).shape == (1, 4, *size)
