"""Learning rates that differ within a network, as the papers' schedules give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def outside_backbone(parameter: str) -> bool:
    """Whether a parameter of that name is not the backbone's, which is called `backbone` where there is one."""
    return not parameter.startswith("backbone.")


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float,
    head_factor: float = 1.0,
    bias_factor: float = 1.0,
    decay_biases: bool = True,
    is_head: Callable[[str], bool] = outside_backbone,
) -> list[dict[str, Any]]:
    """What an optimiser takes: the parameters that are learned, in groups of one rate and decay each.

    Args:
        network: Whose parameters.
        learning_rate: Of the weights that are not the head's.
        weight_decay: Of the weights.
        head_factor: Rate of the head, against the rest's.
        bias_factor: Rate of biases, against weights'.
        decay_biases: Whether weight decay takes biases too.
        is_head: Whether a parameter of that name is the head's.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_bias = name.endswith("bias")
            rate = learning_rate * (head_factor if is_head(name) else 1.0) * (bias_factor if is_bias else 1.0)
            decay = weight_decay if decay_biases or not is_bias else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": those, "lr": rate, "weight_decay": decay} for (rate, decay), those in groups.items()]
