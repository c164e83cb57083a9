"""Networks with other parts in some places, which share all else with those that they come from."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn


def with_parts(network: nn.Module, parts: Mapping[str, nn.Module | None]) -> nn.Module:
    """A network with these modules as its own; itself if it has just these.

    Args:
        network: It stays as it is.
        parts: By name; those that are not named stay.
    """
    if all(part is network._modules[name] for name, part in parts.items()):
        return network
    twin = copy.copy(network)
    twin._modules = {**network._modules, **parts}
    return twin
