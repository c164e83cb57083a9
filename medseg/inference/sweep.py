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
from medseg.inference.mirroring import mirror, mirrorings
from medseg.inference.windows import Sweep, cut, plan_sweep, window_weights
from medseg.volume import Slab, Volume

Progress: TypeAlias = Callable[[int, int], None]

# Planes that leave at once: few, so that what follows (interpolation, refinement) holds little.
PLANES_PER_SLAB = 8


def silent(done: int, total: int) -> None:
    """Show no progress."""


@torch.no_grad()
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
    sweep = plan_sweep(prepared.geometry.shape, windows)
    network = network.to(device).eval()
    ring: _Ring | None = None
    done = 0
    for stop, following in zip(sweep.stops, (*sweep.stops[1:], None), strict=True):
        starts = sweep.windows_at(stop)
        while batch := list(islice(starts, batch_size)):
            scores = _scores(prepared, network, windows, batch, device)
            if ring is None:
                ring = _Ring(prepared.geometry.shape, scores.shape[1], sweep, window_weights(windows).to(device))
            for start, window_scores in zip(batch, scores, strict=True):
                ring.add(window_scores, start)
            done += len(batch)
            progress(done, len(sweep))
        assert ring is not None  # every stop has at least one window
        yield from ring.leave(following, are_probabilities=windows.average == "probabilities")


def _scores(
    prepared: Volume, network: nn.Module, windows: Windows, starts: list[Shape], device: torch.device | str
) -> Float[Tensor, "b classes i j k"]:
    """Run windows through the network, mirrored as often as the model asks."""
    thin = windows.thin_axis
    context = (thin or 0, windows.context)
    cuts = [cut(prepared.array, start, windows.size, windows.padding_value, context=context) for start in starts]
    batch = torch.stack(cuts).to(device)
    total: Tensor | None = None
    passes = list(mirrorings(windows.mirror_axes))
    for axes in passes:
        image = mirror(batch, axes)
        scores = network(image if thin is None else image.squeeze(2 + thin)).float()
        scores = mirror(scores if thin is None else scores.unsqueeze(2 + thin), axes)
        if scores.shape[2:] != windows.size:
            raise ModelError(f"The network gave {tuple(scores.shape[2:])} for a window of {windows.size}.")
        if windows.average == "probabilities":
            scores = scores.softmax(dim=1)
        total = scores if total is None else total.add_(scores)
    assert total is not None  # the plain pass is always among the mirrorings
    return total.div_(len(passes)) if len(passes) > 1 else total


class _Ring:
    """The planes that a later window can still touch: weighted sums of scores, and the weights."""

    def __init__(self, shape: Shape, classes: int, sweep: Sweep, weights: Tensor) -> None:
        self.shape, self.sweep, self.weights = shape, sweep, weights
        # Planes first in memory, so that complete ones are one block; seen by `add` in the order (C, I, J, K).
        extent = [max(n, size) for n, size in zip(shape, sweep.size, strict=True)]
        self.origin = [min(positions[0], 0) for positions in sweep.starts]
        depth, plane = sweep.size[sweep.axis], [n for axis, n in enumerate(extent) if axis != sweep.axis]
        self.sums = weights.new_zeros(depth, classes, *plane)
        self.total_weight = weights.new_zeros(depth, 1, *plane)
        self.first = sweep.stops[0]  # the plane along the sweep that is at depth 0

    def add(self, scores: Float[Tensor, "classes i j k"], start: Shape) -> None:
        """Add one window's scores, weighted."""
        origin = list(self.origin)
        origin[self.sweep.axis] = start[self.sweep.axis]
        where = [slice(s - o, s - o + n) for s, o, n in zip(start, origin, self.sweep.size, strict=True)]
        self._in_order(self.sums)[:, *where].addcmul_(scores, self.weights)
        self._in_order(self.total_weight)[:, *where].add_(self.weights)

    def leave(self, following: int | None, *, are_probabilities: bool) -> Iterator[Slab]:
        """Yield the planes before the next stop (all that are left after the last one) and make room."""
        depth = self.sums.shape[0]
        complete = depth if following is None else following - self.first
        # Planes of padding never leave.
        low, high = max(-self.first, 0), min(complete, self.shape[self.sweep.axis] - self.first)
        inside = [
            slice(-o, -o + n)
            for a, (o, n) in enumerate(zip(self.origin, self.shape, strict=True))
            if a != self.sweep.axis
        ]
        for begin in range(low, high, PLANES_PER_SLAB):
            planes = slice(begin, min(begin + PLANES_PER_SLAB, high))
            scores = self.sums[planes] / self.total_weight[planes]
            yield Slab(self._in_order(scores[:, :, *inside]), self.sweep.axis, self.first + begin, are_probabilities)
        for buffer in (self.sums, self.total_weight):
            for plane in range(complete, depth):  # one by one: old and new places may overlap
                buffer[plane - complete].copy_(buffer[plane])
            buffer[depth - complete :].zero_()
        self.first += complete

    def _in_order(self, planes: Tensor) -> Tensor:
        """(planes, C, …) to a view (C, I, J, K)."""
        return planes.movedim(0, 1 + self.sweep.axis)
