"""What training starts from: fresh weights, or a public checkpoint and the input that it expects."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

from medseg.config import TrainConfig, validate
from medseg.model import build_network
from medseg.networks.checkpoints import load_checkpoint


def starting_point(config: TrainConfig, weights: Path | None, *, show: bool) -> tuple[TrainConfig, nn.Module]:
    """Build the network, load public weights if any, and let their input convention be part of the preparation.

    A convention that the preparation already has stays: who set it knows better than the file's layout.

    Args:
        config: Of the training run.
        weights: A public checkpoint.
        show: Whether to tell on stderr what was adapted.

    Raises:
        ConfigError: If the preparation does not give the intensities that the convention needs.
        InputError: If the checkpoint is missing, damaged, or holds more than weights.
        ModelError: If it does not fit the network.
    """
    network = build_network(config)
    if weights is None:
        return config, network
    report = load_checkpoint(network, weights)
    if show:
        for finding in report.findings:
            print(f"note: {weights.name} ({report.layout}): {finding}", file=sys.stderr)
    content = config.model_dump()
    content["preparation"]["convention"] = (config.preparation.convention or report.convention).model_dump()
    return validate(content, TrainConfig, where=weights.name), network
