import copy

import pytest
import torch
from torch import nn

import medseg.inference.passes
from medseg.config import Windows
from medseg.errors import ConfigError
from medseg.inference import features, predict
from medseg.networks import build
from tests.inference.test_sweep import noise, small_unet, whole

SHAPE = (40, 33, 50)


class Anatomy(nn.Module):
    """A network that is sure of most voxels, as a trained one is: it tells high from low, with a little of a U-Net."""

    def __init__(self):
        super().__init__()
        self.unet = small_unet()

    def forward(self, x):
        place = torch.nn.functional.avg_pool3d(x, 5, stride=1, padding=2)
        return torch.cat([place.abs() * 0, place * 40, place * -40], dim=1) + 0.1 * self.unet(x)


@pytest.mark.skipif(not medseg.inference.passes.has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_labels_in_bfloat16_differ_in_less_than_a_thousandth_of_the_voxels():
    volume, network = noise(SHAPE), Anatomy().eval()
    full = whole(predict(volume, network, Windows(size=(16, 16, 16))), SHAPE)
    half = whole(predict(volume, network, Windows(size=(16, 16, 16), precision="bfloat16")), SHAPE)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    sure = full.topk(2, dim=0).values.diff(dim=0)[0].abs() > 0.1  # of this noise the rest is undecided
    assert (full.argmax(0) != half.argmax(0))[sure].float().mean() < 1e-3


@pytest.mark.skipif(not medseg.inference.passes.has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_bfloat16_leaves_the_model_s_network_and_the_head_in_float32():
    torch.manual_seed(0)
    network = build("unet", spatial_dims=3, in_channels=1, num_classes=11, channels=(4, 8)).eval()
    before = copy.deepcopy(network.state_dict())
    slab = next(features(noise(SHAPE), network, Windows(size=(16, 16, 16), precision="bfloat16")))
    assert slab.scores.shape[0] == 4
    assert slab.head.weight.dtype == torch.float32
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(medseg.inference.passes, "has_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="does not compute with it"):
        next(predict(noise(SHAPE), small_unet(), Windows(size=(16, 16, 16), precision="bfloat16")))
