import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import Windows
from medseg.geometry import Geometry
from medseg.inference import features
from medseg.inference.head import split_head
from medseg.networks import build
from medseg.volume import Volume

CLASSES = 11


def noise(shape):
    array = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    return Volume(array, Geometry(shape, np.eye(4)))


def unet(dims=3):
    torch.manual_seed(0)
    return build("unet", spatial_dims=dims, in_channels=1, num_classes=CLASSES, channels=(4, 8)).eval()


class Finished(nn.Module):
    """A network that does something after its last convolution."""

    def __init__(self, after):
        super().__init__()
        self.network, self.after = unet(), after

    def forward(self, x):
        return self.after(self.network(x))


@pytest.mark.parametrize("windows", [Windows(size=(16, 16, 16), mirror_axes=(1,)), Windows(size=(16, 16, 1))])
def test_a_head_put_off_gives_the_scores_of_every_window_s_own(windows):
    volume = noise((20, 33, 25))
    network = unet(2 if windows.thin_axis is not None else 3)

    class Hidden(nn.Module):
        def forward(self, x):
            return network(x) * 1.0

    late = list(features(volume, network, windows))
    assert {slab.scores.shape[0] for slab in late} == {4}
    direct = list(features(volume, Hidden(), windows))
    assert {slab.scores.shape[0] for slab in direct} == {CLASSES}
    for one, other in zip(late, direct, strict=True):
        torch.testing.assert_close(one.finished.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert other.finished is other


@pytest.mark.parametrize(
    "after", [lambda x: x.softmax(1), lambda x: x.relu_(), lambda x: x * 1.5, lambda x: x[:, :5]], ids=str
)
def test_a_network_that_does_more_after_its_last_convolution_keeps_its_head(after):
    image = torch.randn(1, 1, 16, 16, 16)
    network = Finished(after).eval()
    with torch.inference_mode():
        result, split = split_head(network, image)
        assert split is None
        torch.testing.assert_close(result, network(image))


def test_averaged_probabilities_keep_the_head():
    slabs = list(features(noise((16, 16, 24)), unet(), Windows(size=(16, 16, 16), average="probabilities")))
    assert all(slab.head is None and slab.scores.shape[0] == CLASSES for slab in slabs)


def test_splitting_changes_no_network_and_copies_no_weights():
    network = unet()
    before = list(network.named_modules())
    with torch.inference_mode():
        _, split = split_head(network, torch.randn(1, 1, 16, 16, 16))
    assert list(network.named_modules()) == before
    assert {p.data_ptr() for p in split.body.parameters()} < {p.data_ptr() for p in network.parameters()}
