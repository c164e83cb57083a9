from __future__ import annotations

import torch

from medseg.networks import build
from medseg.training.rates import parameter_groups
from tests.networks.small import SMALL


def rates(network, **factors):
    by_parameter = {
        id(parameter): group["lr"]
        for group in parameter_groups(network, 0.1, weight_decay=0.01, **factors)
        for parameter in group["params"]
    }
    return {name: round(by_parameter[id(p)], 6) for name, p in network.named_parameters() if id(p) in by_parameter}


def test_deeplab_v2_learns_its_head_ten_times_and_its_head_s_biases_twenty_times_as_fast():
    found = rates(
        build("deeplabv2", spatial_dims=2, in_channels=3, num_classes=2, **SMALL["deeplabv2"]),
        head_factor=10,
        bias_factor=2,
    )
    assert found["backbone.layers.0.0.reduce.0.weight"] == 0.1
    assert found["head.pyramid.branches.0.weight"] == 1.0
    assert found["head.pyramid.branches.0.bias"] == 2.0


def test_parameters_that_are_frozen_have_no_rate():
    network = build(
        "deeplabv2", spatial_dims=2, in_channels=3, num_classes=2, **SMALL["deeplabv2"], norm="frozen_batch"
    )
    learned = rates(network)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == set(learned)
    assert not any("backbone" in name and name.endswith("bias") for name in learned)


def test_without_factors_there_is_one_group_of_everything():
    network = torch.nn.Conv2d(1, 1, 1)
    (group,) = parameter_groups(network, 0.1, weight_decay=0.01)
    assert (len(group["params"]), group["lr"]) == (2, 0.1)
