"""Streaming sliding-window inference: a network is swept along one axis and complete planes leave as they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import torch
from torch import nn

from medseg.config import Windows
from medseg.inference.compiling import Compiler
from medseg.inference.halo import halo_tiles
from medseg.inference.passes import Passes
from medseg.inference.ring import Ring
from medseg.inference.windows import plan_sweep, window_weights
from medseg.volume import Slab, Volume

Progress: TypeAlias = Callable[[int, int], None]

# Planes that leave at once: few, so that what follows (interpolation, refinement) holds little.
PLANES_PER_SLAB = 4


def silent(done: int, total: int) -> None:
    """Show no progress."""


@torch.no_grad()
def features(
    prepared: Volume,
    network: nn.Module,
    windows: Windows,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    spill: bool = False,
    compiler: Compiler | None = None,
    progress: Progress = silent,
) -> Iterator[Slab]:
    """As `predict`, but where the network's last layer can be put off, slabs hold its inputs, and it as their `head`.

    Args:
        prepared: Volume (C, I, J, K) of float32 on the model's grid.
        network: Takes (B, C, I, J, K), or (B, C, I, J) where `windows` has a thin axis; gives logits of that size.
        windows: The model's conventions.
        device: Where the network runs; it is moved there.
        batch_size: Windows that go through the network together.
        spill: Whether the planes that wait for later windows wait in a temporary file instead of in memory.
        compiler: Compiles the network, where one is given.
        progress: Called with (windows done, windows in all).
    """
    run = Passes(prepared, network, windows, device, compiler)
    if windows.tiling == "halo":
        for first, axis, scores in halo_tiles(run, PLANES_PER_SLAB, progress):
            yield Slab(scores, axis, first, windows.average == "probabilities", run.head)
            del scores
        return
    sweep = plan_sweep(prepared.geometry.shape, windows)
    weights = window_weights(windows).to(device)  # first of all: later it would part what a window leaves free
    ring: Ring | None = None
    done = 0
    for stop, following in zip(sweep.stops, (*sweep.stops[1:], None), strict=True):
        starts = sweep.windows_at(stop)
        while batch := list(islice(starts, batch_size)):
            with torch.inference_mode():
                scores = run.scores(batch)
                if ring is None:
                    with torch.inference_mode(mode=False):
                        ring = Ring(prepared.geometry.shape, scores, sweep, weights, spill=spill)
                for start, window_scores in zip(batch, scores, strict=True):
                    ring.add(window_scores, start)
                del scores, window_scores  # before the next windows need the memory
            done += len(batch)
            progress(done, len(sweep))
        assert ring is not None  # every stop has at least one window
        for first, averages in ring.leave(following, PLANES_PER_SLAB):
            yield Slab(averages, sweep.axis, first, windows.average == "probabilities", run.head)
            del averages


def predict(
    prepared: Volume,
    network: nn.Module,
    windows: Windows,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    progress: Progress = silent,
) -> Iterator[Slab]:
    """Class scores of a prepared volume, plane by plane.

    Windows are visited in order along one axis. A ring of planes as deep as a window holds the weighted sum; planes
    that no later window touches are divided by their weight and leave. Memory depends on classes × window depth ×
    plane, not on the depth of the volume. With MONAI's weights the scores are those of MONAI's
    `sliding_window_inference`.

    Args:
        prepared: Volume (C, I, J, K) of float32 on the model's grid.
        network: Takes (B, C, I, J, K), or (B, C, I, J) where `windows` has a thin axis; gives logits of that size.
        windows: The model's conventions.
        device: Where the network runs; it is moved there.
        batch_size: Windows that go through the network together.
        progress: Called with (windows done, windows in all).

    Yields:
        Slabs in ascending order along one axis, that together cover the volume once.

    Raises:
        ModelError: If the network gives another size than it was given.
    """
    slabs = features(prepared, network, windows, device=device, batch_size=batch_size, progress=progress)
    return (slab.finished for slab in slabs)
