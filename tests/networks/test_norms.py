"""Normalisations against double precision."""

import pytest
import torch

from medseg.networks.norms import GroupNorm


@pytest.mark.parametrize("mean", [0, 3, 100])
@pytest.mark.parametrize(("shape", "groups"), [((1, 8, 96, 96, 96), 8), ((2, 6, 5, 7, 9), 3), ((3, 4, 40, 56), 4)])
def test_group_norm_is_as_right_with_channels_last(shape, groups, mean):
    torch.manual_seed(0)
    norm = GroupNorm(groups, shape[1])
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = torch.randn(shape) + mean
    expected = torch.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double()).float()
    with torch.no_grad():
        ours = norm(x.clone(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d))
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-4)  # of a standard deviation; torch's own is off by 5e-4
