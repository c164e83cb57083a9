"""What training starts from: fresh weights, those of a model of ours, or a public checkpoint and its input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medseg.config import TrainConfig, validate
from medseg.errors import ModelError
from medseg.model import build_network, load_model
from medseg.networks.checkpoints import classes_adapted, load_checkpoint
from medseg.networks.inflation import require_fit
from medseg.study import Finding


def starting_point(config: TrainConfig, weights: Path | None, *, show: bool) -> tuple[TrainConfig, nn.Module]:
    """Build the network, load weights if any, and let a public file's input convention be part of the preparation.

    A convention that the preparation already has stays: who set it knows better than the file's layout.

    Args:
        config: Of the training run.
        weights: A public checkpoint, or the folder of a model to go on from.
        show: Whether to tell on stderr what was adapted.

    Raises:
        ConfigError: If the preparation does not give the intensities that the convention needs.
        InputError: If the checkpoint is missing, damaged, or holds more than weights.
        ModelError: If it does not fit the network, or the folder holds no sound model.
    """
    network = build_network(config)
    if weights is None:
        return config, network
    if weights.is_dir():
        _tell(_inherited(network, config, weights), str(weights), show=show)
        return config, network
    report = load_checkpoint(network, weights)
    _tell(report.findings, f"{weights.name} ({report.layout})", show=show)
    content = config.model_dump()
    content["preparation"]["convention"] = (config.preparation.convention or report.convention).model_dump()
    return validate(content, TrainConfig, where=weights.name), network


def _inherited(network: nn.Module, config: TrainConfig, folder: Path) -> list[Finding]:
    """Give a network the weights of a trained model; where labels are more or fewer, theirs stay fresh."""
    model = load_model(folder)
    for part in ("architecture", "spatial_dims", "in_channels", "settings"):
        theirs, ours = (getattr(settings, part) for settings in (model.info.network, config.network))
        if theirs != ours:
            raise ModelError(
                f"{folder}: the model's network has {part} {theirs!r}, the configuration {ours!r}; "
                "make network the same in both, or start without network.checkpoint."
            )
    findings: list[Finding] = []
    own = network.state_dict()
    classes = model.labels.num_classes, config.labels.num_classes
    state = classes_adapted(model.network.state_dict(), own, classes, findings)
    require_fit(state, network, str(folder), "Train with as many neighbouring slices (windows.context).")
    network.load_state_dict(state)
    return findings


def _tell(findings: Sequence[Finding], source: str, *, show: bool) -> None:
    for finding in findings if show else ():
        print(f"note: {source}: {finding}", file=sys.stderr)
