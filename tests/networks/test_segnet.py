import torch
from torch.nn import functional

from medseg.networks import build


def units(p, x, count):
    for _ in range(count):
        x = functional.conv2d(x, next(p), next(p), padding=1)
        x = functional.batch_norm(x, None, None, next(p), next(p), training=True).relu()
    return x


def test_segnet_is_the_paper_layer_by_layer():
    torch.manual_seed(0)
    segnet = build("segnet", spatial_dims=2, in_channels=3, num_classes=4, width=1 / 16).train()
    with torch.no_grad():
        for key, p in segnet.named_parameters():
            if "bias" in key or "norm" in key:
                p.add_(torch.randn_like(p) * 0.1)
    x = torch.randn(2, 3, 64, 32)
    h, p, memory = x, iter(segnet.parameters()), []
    for count in (2, 2, 3, 3, 3):
        h, indices = functional.max_pool2d(units(p, h, count), 2, 2, return_indices=True)
        memory.append(indices)
    for count in (3, 3, 3, 2, 1):
        h = units(p, functional.max_unpool2d(h, memory.pop(), 2, 2), count)
    expected = functional.conv2d(h, next(p), next(p), padding=1)
    assert next(p, None) is None
    torch.testing.assert_close(segnet(x), expected, rtol=1e-4, atol=1e-4)


def test_channels_change_on_the_last_convolution_of_a_stage():
    with torch.device("meta"):
        segnet = build("segnet", spatial_dims=2, in_channels=3, num_classes=21)
    widths = [[unit.conv.out_channels for unit in stage] for stage in segnet.decoder]
    assert widths == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64]]


def test_unpooling_restores_odd_sizes():
    segnet = build("segnet", spatial_dims=3, in_channels=1, num_classes=2, width=1 / 16).eval()
    assert segnet(torch.randn(1, 1, 37, 5, 1)).shape == (1, 2, 37, 5, 1)
