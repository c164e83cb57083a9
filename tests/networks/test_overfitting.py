"""Every network on ResNet learns one small image by heart, at batch 1, with batch statistics and its own losses."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from medseg.networks import build

NARROW = {"depth": (1, 1, 1, 1), "width": 1 / 8}
# RefineNet and GCN refine up to stride 4, so less will do for them; chance in between only makes the test longer.
CASES = {
    "deeplabv2": (NARROW, 33),
    "refinenet": (NARROW | {"width": 1 / 16, "dropout": 0.0}, 25),
    "pspnet": (NARROW, 33),
    "gcn": (NARROW | {"width": 1 / 16}, 25),
    "deeplabv3": (NARROW, 33),
    "deeplabv3_cascade": (NARROW, 33),
    "fcn_resnet": (NARROW, 33),
}


def noisy_ball(spatial_dims, size):
    axes = torch.meshgrid(*[torch.arange(size)] * spatial_dims, indexing="ij")
    mask = (sum((axis - 0.45 * size) ** 2 for axis in axes) < (0.33 * size) ** 2).long()
    return (mask + 0.3 * torch.randn(mask.shape))[None, None], mask[None]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_one_image_is_learned_within_two_hundred_steps(name, spatial_dims):
    settings, size = CASES[name]
    torch.manual_seed(0)
    image, mask = noisy_ball(spatial_dims, size)
    network = build(name, spatial_dims=spatial_dims, in_channels=1, num_classes=2, **settings)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(1, 201):
        network.train()
        loss = torch.stack([w * cross_entropy(logits, mask) for logits, w in network.training_outputs(image)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                found = network.eval()(image).argmax(1)
            dice = 2 * (found * mask).sum() / (found.sum() + mask.sum())
            if dice > 0.95:
                break
    assert dice > 0.95
