"""Networks laid out for the CPU give what they gave."""

import pytest
import torch
from torch import nn

from medseg.inference.convolutions import channels_last, laid_out
from tests.contracts.test_architectures import NAMES, SIZES, small


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_gives_the_same_logits(name, spatial_dims):
    network = small(name, spatial_dims).eval()
    x = torch.randn(1, 1, *SIZES[spatial_dims][0])
    with torch.inference_mode():
        expected = network(x)
        ours = channels_last(network, by_onednn=True)(laid_out(x))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(2, 3, 3, padding="same"),
        nn.Conv3d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(2, 4, (3, 1, 2), stride=(2, 1, 1), padding=(2, 0, 1), dilation=(2, 1, 1), groups=2),
        nn.ConvTranspose3d(2, 3, 2, stride=2),
        nn.Sequential(nn.Conv3d(2, 3, 1, bias=False), nn.ReLU()),
    ],
)
def test_every_kind_of_convolution_gives_the_same(conv):
    x = torch.randn(2, 2, 7, 6, 8)
    weights = {name: (p.data_ptr(), p.stride()) for name, p in conv.named_parameters()}
    with torch.inference_mode():
        expected = conv(x)
        ours = channels_last(conv, by_onednn=True)(laid_out(x))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert weights == {name: (p.data_ptr(), p.stride()) for name, p in conv.named_parameters()}


def test_a_single_channel_leaves_with_its_channels_last():
    network = channels_last(nn.Conv3d(1, 4, 1), by_onednn=True)
    with torch.inference_mode():
        assert network(laid_out(torch.randn(1, 1, 6, 7, 8))).stride(1) == 1
