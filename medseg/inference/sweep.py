"""Streaming sliding-window inference: a network is swept along one axis and complete planes leave as they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.config import Windows
from medseg.errors import ModelError
from medseg.geometry import Shape
from medseg.inference.head import Head, split_head
from medseg.inference.mirroring import mirror, mirrorings
from medseg.inference.ring import Ring
from medseg.inference.windows import cut, plan_sweep, window_weights
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
    progress: Progress = silent,
) -> Iterator[Slab]:
    """As `predict`, but where the network's last layer can be put off, slabs hold its inputs, and it as their `head`.

    Args:
        prepared: Volume (C, I, J, K) of float32 on the model's grid.
        network: Takes (B, C, I, J, K), or (B, C, I, J) where `windows` has a thin axis; gives logits of that size.
        windows: The model's conventions.
        device: Where the network runs; it is moved there.
        batch_size: Windows that go through the network together.
        progress: Called with (windows done, windows in all).
    """
    sweep = plan_sweep(prepared.geometry.shape, windows)
    run = _Windows(prepared, network.to(device).eval(), windows, device)
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
                        ring = Ring(prepared.geometry.shape, scores.shape[1], sweep, weights)
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


class _Windows:
    """Sends windows through a network, mirrored as often as the model asks; finds its head on the first."""

    def __init__(self, prepared: Volume, network: nn.Module, windows: Windows, device: torch.device | str) -> None:
        self.prepared, self.network, self.windows, self.device = prepared, network, windows, device
        self.head: Head | None = None
        self._is_split = windows.average == "probabilities"  # which no linear layer can follow

    def scores(self, starts: list[Shape]) -> Float[Tensor, "b channels i j k"]:
        """What the windows at `starts` give: logits, probabilities, or what the head takes."""
        windows = self.windows
        context = (windows.thin_axis or 0, windows.context)
        array, size, filler = self.prepared.array, windows.size, windows.padding_value
        batch = torch.stack([cut(array, start, size, filler, context=context) for start in starts]).to(self.device)
        total: Tensor | None = None
        passes = list(mirrorings(windows.mirror_axes))
        for axes in passes:
            scores = mirror(self._through(mirror(batch, axes)), axes)
            if windows.average == "probabilities":
                scores = scores.softmax(dim=1)
            total = scores if total is None else total.add_(scores)
        assert total is not None  # the plain pass is always among the mirrorings
        return total.div_(len(passes)) if len(passes) > 1 else total

    def _through(self, image: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b channels i j k"]:
        thin = self.windows.thin_axis
        seen = image if thin is None else image.squeeze(2 + thin)
        if self._is_split:
            scores: Tensor = self.network(seen)
        else:
            self._is_split = True
            scores, split = split_head(self.network, seen)
            if split is not None:
                self.network, self.head = split.body, split.head
        scores = scores.float()
        scores = scores if thin is None else scores.unsqueeze(2 + thin)
        if scores.shape[2:] != image.shape[2:]:
            raise ModelError(f"The network gave {tuple(scores.shape[2:])} for a window of {self.windows.size}.")
        return scores
