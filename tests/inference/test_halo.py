import pytest
import torch
from torch import nn

from medseg.config import Windows
from medseg.errors import ConfigError
from medseg.inference import predict
from medseg.networks import build
from tests.inference.test_sweep import noise, whole


def network(**settings):
    torch.manual_seed(0)
    chosen = {"channels": (4, 6, 8), "norm": "batch", **settings}
    built = build("unet", **{"spatial_dims": 3, "in_channels": 1, "num_classes": 3, **chosen}).eval()
    with torch.no_grad():  # fresh weights are so small that what a halo leaves out would not show
        for parameter in built.parameters():
            parameter.mul_(1.5)
    return built


def halo(**settings):
    return Windows(**{"size": (16, 16, 16), "tiling": "halo", **settings})


@pytest.mark.parametrize("shape", [(40, 33, 61), (61, 20, 33), (9, 24, 11)])
def test_tiles_with_a_halo_give_the_scores_of_the_whole_image(shape):
    volume, unet = noise(shape), network()
    ours = whole(predict(volume, unet, halo()), shape)
    with torch.no_grad():
        theirs = unet(torch.from_numpy(volume.array)[None])[0]
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_slices_have_a_halo_in_their_plane_alone():
    shape = (40, 50, 3)
    volume, unet = noise(shape), network(spatial_dims=2)
    ours = whole(predict(volume, unet, halo(size=(16, 16, 1))), shape)
    with torch.no_grad():
        theirs = unet(torch.from_numpy(volume.array).movedim(3, 0)).movedim(0, 3)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_voxelwise_network_sees_every_voxel_once():
    seen = []

    class Double(nn.Module):
        def forward(self, x):
            seen.append(x.numel())
            return torch.cat([x, 2 * x], dim=1)

    shape = (40, 48, 56)
    volume = noise(shape)
    scores = whole(predict(volume, Double(), halo(), progress=lambda *_: seen.append(0)), shape)
    torch.testing.assert_close(scores[1], 2 * torch.from_numpy(volume.array[0]))
    swept = seen[len(seen) - 2 * seen.count(0) :]  # what came before measured the reach
    assert sum(swept) == 40 * 48 * 56


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_a_network_with_statistics_of_its_window_is_refused(norm):
    with pytest.raises(ConfigError, match="depends on the whole window"):
        next(predict(noise((40, 33, 61)), network(norm=norm), halo()))


def test_mirrored_passes_are_refused_with_a_halo():
    with pytest.raises(ConfigError, match="--disable-tta"):
        next(predict(noise((40, 33, 61)), network(), halo(mirror_axes=(0,))))
