import pytest
import torch

from medseg.errors import ModelError
from medseg.networks import ARCHITECTURES, build
from medseg.networks.inflation import inflate
from medseg.networks.layers import conv, up_conv
from tests.networks.small import SMALL

# At a stride of 32 only one voxel of depth would be left to be constant, and this one's units are no longer alike.
DEEPER = {"depth": (1, 1, 2, 1), "width": 1 / 16}
CHANGES = {
    **{a.name: DEEPER for a in ARCHITECTURES if "stride_on" in a.settings},
    # A maximum that depth was pooled to goes back to one slice alone.
    "segnet": {"strides": {2: 2, 3: [(2, 2, 1)] * 5}},
    # Their 3D form interpolates between every fourth voxel by default.
    "patch_classifier": {"output_stride": 2},
    # So near that both forms write their kernels out; further ones are approximated, each in its own way.
    "crfrnn": {"bilateral_sd": 0.5, "spatial_sd": 1.0},
}


def settings(name, spatial_dims):
    """Small, and the same in 2D and 3D where their defaults differ."""
    chosen = SMALL[name] | CHANGES.get(name, {})
    if "upsampling" in next(a for a in ARCHITECTURES if a.name == name).settings:
        chosen |= {"upsampling": "per_class"}
    return {key: value[spatial_dims] if isinstance(value, dict) else value for key, value in chosen.items()}


def trained(name, spatial_dims):
    """A small network whose offsets and running statistics are as different as training leaves them."""
    torch.manual_seed(0)
    network = build(
        name, spatial_dims=spatial_dims, in_channels=2, num_classes=3, **settings(name, spatial_dims)
    ).eval()
    for key, tensor in network.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            tensor.uniform_(-0.3, 0.3)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("name", [a.name for a in ARCHITECTURES])
def test_volume_that_is_constant_in_depth_gives_the_2d_logits_on_every_slice(name):
    flat, deep = trained(name, 2), trained(name, 3)
    inflate(flat.state_dict(), deep, how="centre")
    image = torch.randn(1, 2, 33, 26)
    with torch.no_grad():
        planes, volume = flat(image), deep(image[..., None].expand(-1, -1, -1, -1, 7))
    assert planes.std() > 0.01
    torch.testing.assert_close(volume, planes[..., None].expand_as(volume), rtol=0, atol=1e-4)


@pytest.mark.parametrize("upsampling", ["dense", "per_class"])
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_deconvolutions_keep_what_is_constant_in_depth(name, upsampling):
    chosen = settings(name, 3) | {"upsampling": upsampling, "strides": [(2, 2, 2), (2, 2, 1), (2, 2, 3), 1, 2]}
    flat, deep = (
        build(name, spatial_dims=dims, in_channels=1, num_classes=2, **chosen | {"strides": strides}).eval()
        for dims, strides in ((2, (2, 2, 2, 1, 2)), (3, chosen["strides"]))
    )
    inflate(flat.state_dict(), deep)
    image = torch.randn(1, 1, 33, 26)
    with torch.no_grad():
        planes, volume = flat(image), deep(image[..., None].expand(-1, -1, -1, -1, 7))
    torch.testing.assert_close(volume, planes[..., None].expand_as(volume), rtol=0, atol=1e-4)


def test_mean_inflation_gives_the_2d_response_away_from_the_borders_in_depth():
    flat, deep = conv(2, 2, 3, 3), conv(3, 2, 3, 3)
    inflate(flat.state_dict(), deep, how="mean")
    image = torch.randn(1, 2, 6, 5)
    volume = deep(image[..., None].expand(-1, -1, -1, -1, 4))
    torch.testing.assert_close(volume[..., 1:3], flat(image)[..., None].expand(-1, -1, -1, -1, 2))
    assert (volume[..., 0] - flat(image)).abs().max() > 0.01


def test_acs_inflation_looks_along_all_three_planes():
    flat, deep = conv(2, 1, 3, 3, bias=False), conv(3, 1, 3, 3, bias=False)
    inflate(flat.state_dict(), deep, how="acs")
    image = torch.randn(1, 1, 6, 5)
    expected = flat(image)
    for channel, axis in enumerate((4, 3, 2)):
        volume = image.unsqueeze(axis).expand(*[4 if a == axis else -1 for a in range(5)])
        ours = deep(volume).select(axis, 1)
        torch.testing.assert_close(ours[:, channel], expected[:, channel])


@pytest.mark.parametrize("stride", [2, 3])
def test_transposed_convolution_keeps_what_is_constant_in_depth(stride):
    flat, deep = up_conv(2, 2, 3, stride), up_conv(3, 2, 3, stride)
    inflate(flat.state_dict(), deep)
    image = torch.randn(1, 2, 4, 5)
    volume = deep(image[..., None].expand(-1, -1, -1, -1, 3))
    torch.testing.assert_close(volume, flat(image)[..., None].expand_as(volume))


def test_networks_of_different_settings_name_the_keys():
    deep = build("gcn", spatial_dims=3, in_channels=2, num_classes=4, **settings("gcn", 3))
    with pytest.raises(
        ModelError, match=r"another shape \d+: head\.scores\.0\.branches.* Build both networks with the"
    ):
        inflate(trained("gcn", 2).state_dict(), deep)


def test_unknown_inflation_lists_what_exists():
    with pytest.raises(ModelError, match="'copy' is unknown; there are: centre, mean, acs"):
        inflate({}, conv(3, 1, 1, 3), how="copy")
