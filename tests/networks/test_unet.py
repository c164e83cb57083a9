import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build
from medseg.networks.unet import PAPER


def parameters(**settings):
    return sum(p.numel() for p in build("unet", **settings).parameters())


@pytest.mark.parametrize(
    ("in_channels", "num_classes", "expected"), [(3, 21, 31_033_045), (3, 2, 31_031_810), (1, 2, 31_030_658)]
)
def test_paper_form_has_the_paper_s_parameters(in_channels, num_classes, expected):
    assert parameters(spatial_dims=2, in_channels=in_channels, num_classes=num_classes, **PAPER) == expected


def test_paper_form_gives_388_pixels_for_572():
    network = build("unet", spatial_dims=2, in_channels=1, num_classes=2, **PAPER | {"channels": (2, 2, 2, 2, 2)})
    assert network.forward_features(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_paper_form_sees_the_same_pixels_through_the_mirrored_border():
    torch.manual_seed(0)
    network = build("unet", spatial_dims=2, in_channels=1, num_classes=2, **PAPER | {"channels": (4, 4, 4)}).eval()
    # 44 valid pixels remain of 84: the tile's own border is real image, so the middle of a larger image agrees.
    image = torch.randn(1, 1, 124, 124)
    with torch.no_grad():
        tile = network.forward_features(image[..., 20:104, 20:104])
        whole = network.forward_features(image)
    assert tile.shape[-1] == 44
    torch.testing.assert_close(whole[..., 20:64, 20:64], tile, rtol=1e-4, atol=1e-5)


def test_defaults_have_the_parameters_that_the_docstring_states():
    assert parameters(spatial_dims=2, in_channels=1, num_classes=2) == 7_762_498
    assert parameters(spatial_dims=3, in_channels=1, num_classes=2) == 22_578_306


def test_anisotropic_strides_leave_thick_slices_alone():
    network = build(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=2,
        channels=(4, 8, 8),
        strides=[(2, 2, 1), 2],
        kernel_size=[(3, 3, 1), 3, 3],
    )
    assert network(torch.zeros(1, 1, 17, 13, 5)).shape == (1, 2, 17, 13, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "layer"}, "norm 'layer' is unknown; there are: instance, batch, frozen_batch, group, none"),
        ({"activation": "tanh"}, "activation 'tanh' is unknown"),
        ({"padding": "circular"}, "padding 'circular' is 'same' or 'valid'"),
        ({"strides": [2, 2]}, "strides .* has 2 entries"),
        ({"strides": [(2, 2), 2, 2, 2]}, "has 2 entries, expected one or 3"),
        ({"width": 3}, "no setting 'width'; there are: channels"),
    ],
)
def test_wrong_settings_say_what_is_possible(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("unet", spatial_dims=3, in_channels=1, num_classes=2, **settings)
