"""Training of what is not learnt by gradients: one call with all patches instead of the trainer's loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medseg.atomic import atomic_path, write_text
from medseg.training.augmentation import IMAGE, LABEL
from medseg.training.module import SegmentationModule
from medseg.training.progress import as_csv


@runtime_checkable
class Fitted(Protocol):
    """A network that trains itself."""

    def fit(self, samples: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> None:
        """Learn from images (B, C, *space) with the class of every voxel (B, 1, *space)."""
        ...


def fit(module: SegmentationModule, patches: DataLoader[dict[str, Tensor]], last: Path, log: Path) -> None:
    """Fit the network to one epoch of patches, and leave the files that the trainer would have left.

    Args:
        module: Whose network is `Fitted`.
        patches: As the trainer would draw them.
        last: The checkpoint; where it exists, there is nothing left to do.
        log: The CSV file, which gets one row.
    """
    network = module.network
    assert isinstance(network, Fitted)
    if last.exists():
        return
    began, cpu_began = time.monotonic(), time.process_time()
    samples = [(batch[IMAGE], batch[LABEL]) for batch in patches]
    loaded = time.monotonic()
    network.fit(samples, seed=module.config.training.seed)
    last.parent.mkdir(parents=True, exist_ok=True)
    times = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
    write_text(log, as_csv([{"epoch": 1, "steps": 1, **times, "loading_seconds": loaded - began}]))
    with atomic_path(last) as part:
        torch.save({"state_dict": module.state_dict()}, part)
