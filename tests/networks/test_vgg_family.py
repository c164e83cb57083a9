"""What holds for all networks on VGG, and for the two baselines before them."""

import pytest
import torch
from torch.nn import functional

from medseg.errors import ConfigError
from medseg.networks import ARCHITECTURES, build

# Of the papers' networks with 3 channels, at 21 classes and at 2.
PAPER_PARAMETERS = {
    "fcn32s": (136_152_917, 134_285_122),
    "fcn16s": (134_815_994, 134_273_924),
    "fcn8s": (134_489_759, 134_271_430),
    "segnet": (29_455_125, 29_444_162),
    "dilated_frontend": (134_346_581, 134_268_738),
    "dilated": (141_149_720, 134_330_620),
    "deeplabv1": (20_505_429, 20_485_954),
    "deeplabv1_msc": (21_711_550, 21_679_820),
    "crfrnn": (134_491_103, 134_271_444),
}

# Shallow and narrow, with fewer poolings for an image that is small.
TINY = {"depth": 11, "width": 1 / 8, "norm": "group"}
HEAD = {**TINY, "dropout": 0.0, "head_channels": 32, "fc6_kernel": 3}
FCN = {**HEAD, "strides": (2, 2, 2, 1, 1), "padding": "same", "zero_scores": False, "learn_upsampling": True}
DILATED = {**HEAD, "strides": (2, 1, 1), "padding": "same"}
DEEPLAB = {**HEAD, "width": 1 / 16, "strides": (2, 1, 1), "fc6_dilation": 2}
# These take larger steps.
SLOW = ("segnet", "deeplabv1", "deeplabv1_msc")
OVERFIT = {
    "fcn32s": FCN,
    "fcn16s": FCN,
    "fcn8s": FCN,
    "segnet": {**TINY, "strides": (2, 2, 1, 1, 1)},
    "dilated_frontend": DILATED,
    "dilated": {**DILATED, "context": "basic"},
    "deeplabv1": DEEPLAB,
    "deeplabv1_msc": DEEPLAB,
    "crfrnn": {**FCN, "iterations": 2, "bilateral_sd": 5.0, "bilateral_sd_value": 1.0},
    "patch_classifier": {"channels": (16, 16), "kernels": (4, 3), "head_channels": 32, "output_stride": 2},
}


def parameters(name, spatial_dims=2, in_channels=3, num_classes=21, **settings):
    with torch.device("meta"):
        network = build(name, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes, **settings)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_parameters_are_as_many_as_in_the_paper(name):
    assert (parameters(name), parameters(name, num_classes=2)) == PAPER_PARAMETERS[name]


def test_at_once_adds_no_parameters():
    assert parameters("fcn8s", at_once=True) == PAPER_PARAMETERS["fcn8s"][0]


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_docstring_says_how_many_parameters_there_are(name):
    builder = next(a.builder for a in ARCHITECTURES if a.name == name)
    text = " ".join(builder.__doc__.split())
    counts = [parameters(name, num_classes=2), parameters(name), parameters(name, 3, 1, 2)]
    two, twentyone, volume = (f"{count / 1e6:.1f} M" for count in counts)
    assert f"Parameters at 2 classes: {two} in 2D (at 21: {twentyone}) and {volume} in 3D" in text


def test_anisotropic_strides_and_kernels_are_settings():
    settings = {"width": 1 / 16, "kernel_size": (3, 3, 1), "strides": [(2, 2, 1)] * 3}
    network = build("deeplabv1", spatial_dims=3, in_channels=1, num_classes=2, head_channels=8, **settings).eval()
    assert network.forward_features(torch.randn(1, 1, 17, 9, 4)).shape == (1, 2, 3, 2, 4)
    assert network(torch.randn(1, 1, 17, 9, 4)).shape == (1, 2, 17, 9, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fcn8s", {"depth": 17}, "depth 17 is one of 11, 13, 16, 19"),
        ("fcn8s", {"fc6_kernel": 4}, "fc6_kernel .* is not odd"),
        ("fcn32s", {"at_once": True}, "FCN-32s has none"),
        ("segnet", {"strides": (2, 2)}, "has 2 entries, expected one integer or 5"),
        ("patch_classifier", {"output_stride": 3}, "output_stride"),
        ("random_forest", {"trees": 0}, "must be positive"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build(name, spatial_dims=2, in_channels=1, num_classes=2, **settings)


def phantom(spatial_dims):
    """A ball and a box in noise: image (1, 1, *space), classes (1, *space)."""
    torch.manual_seed(0)
    size = (32, 24) if spatial_dims == 2 else (16, 16, 12)
    axes = torch.meshgrid(*(torch.arange(n) / n for n in size), indexing="ij")
    ball = sum((axis - 0.35).square() for axis in axes) < 0.3**2
    box = torch.stack([(axis - 0.8).abs() < 0.15 for axis in axes]).all(0)
    classes = ball.long() + 2 * (box & ~ball).long()
    return (classes + 0.3 * torch.randn(size))[None, None], classes[None]


def dice(logits, classes):
    predicted = logits.argmax(1)
    overlaps = [(predicted == i, classes == i) for i in (1, 2)]
    return min(float(2 * (a & b).sum() / (a.sum() + b.sum())) for a, b in overlaps)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", OVERFIT)
def test_overfits_one_small_image(name, spatial_dims):
    image, classes = phantom(spatial_dims)
    network = build(name, spatial_dims=spatial_dims, in_channels=1, num_classes=3, **OVERFIT[name]).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2 if name in SLOW else 3e-3)
    rarity = 1 / torch.bincount(classes.flatten()).float()
    for _ in range(300):
        logits = network(image)
        if dice(logits, classes) > 0.95:
            return
        optimizer.zero_grad()
        functional.cross_entropy(logits, classes, rarity).backward()
        optimizer.step()
    pytest.fail(f"Dice {dice(network(image), classes):.3f} after 300 steps")
