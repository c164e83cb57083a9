"""Learning rates that differ within a network, as the papers' schedules give them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn


def parameter_groups(
    network: nn.Module, learning_rate: float, *, head_factor: float = 1.0, bias_factor: float = 1.0
) -> list[dict[str, Any]]:
    """What an optimiser takes: the parameters that are learned, in groups of one rate each.

    Args:
        network: Whose backbone, if it has one, is called `backbone`; everything else is its head.
        learning_rate: Of the backbone's weights.
        head_factor: Of the head, against the backbone.
        bias_factor: Of biases, against weights.
    """
    groups: defaultdict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            of_head = 1.0 if name.startswith("backbone.") else head_factor
            of_bias = bias_factor if name.endswith("bias") else 1.0
            groups[learning_rate * of_head * of_bias].append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]
