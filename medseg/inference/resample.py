"""Slabs of scores from the model's grid to the scan's own, by the affines, as the planes arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.geometry import Geometry
from medseg.inference.route import REACH, Interpolation, Route
from medseg.volume import Slab

# Logit of every label where the model saw nothing; finite, because refiners multiply.
_NEVER = -1e4


def resample(
    slabs: Iterator[Slab], source: Geometry, *, to: Geometry, interpolation: Interpolation = "linear"
) -> Iterator[Slab]:
    """Interpolate slabs of scores onto another grid, plane by plane.

    Args:
        slabs: Complete planes on the grid `source`, ascending along one axis.
        source: The grid of the slabs.
        to: The grid that is wanted: of any orientation, spacing or shear.
        interpolation: "linear" on the scores, or "nearest".

    Yields:
        Slabs of one plane on the grid `to`, along the axis of `to` that lies closest to the slabs' axis. Planes that
        lie outside the source are left out; voxels outside it are background.
    """
    if source.matches(to):
        yield from (slab.finished for slab in slabs)
        return
    first = next(slabs)
    route = Route(source, to, first.axis, interpolation)
    interpolate = _Separable(route) if route.is_separable else _Sheared(route)
    held = _Held(first.scores, first.axis, first.start)
    for plane, lowest, highest in route.planes:
        while held.stop <= highest:
            held.append(next(slabs))
        held.forget_before(lowest)
        yield Slab(interpolate(held, plane, first), route.target_axis, plane, first.are_probabilities)
    for _ in slabs:  # let the sweep finish, so that its progress reaches the end
        pass


@dataclass
class _Held:
    """Source planes that are still needed."""

    scores: Tensor
    axis: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + int(self.scores.shape[1 + self.axis])

    def append(self, slab: Slab) -> None:
        self.scores = torch.cat([self.scores, slab.scores], dim=1 + self.axis)

    def forget_before(self, plane: int) -> None:
        if plane > self.start:
            self.scores = self.scores.narrow(1 + self.axis, plane - self.start, self.stop - plane)
            self.start = plane


class _Separable:
    """Each axis of the source depends on one axis of the target: three interpolations along lines."""

    def __init__(self, route: Route) -> None:
        self.axis, self.interpolation = route.axis, route.interpolation
        self.last = [n - 1 for n in route.source.shape]
        self.positions = [np.clip(route.positions(a), 0, last) for a, last in enumerate(self.last)]
        if self.interpolation == "nearest":
            self.positions = [np.rint(positions) for positions in self.positions]
        self.outside = [route.outside(a) for a in range(3)]
        # The permutation that brings (C, source axes) into (C, target axes).
        self.order = (0, *(1 + np.argsort(route.target_of)).tolist())

    def __call__(self, held: _Held, plane: int, like: Slab) -> Float[Tensor, "classes i j k"]:
        scores = held.scores
        positions = list(self.positions)
        positions[self.axis] = positions[self.axis][plane : plane + 1]
        # The axis of the sweep first: it leaves one plane for the others.
        for a in sorted(range(3), key=lambda a: a != self.axis):
            offset = held.start if a == self.axis else 0
            scores = self._along(scores, a, positions[a] - offset)
        scores = scores if like.head is None else like.head(scores)
        for a in range(3):
            if a != self.axis and self.outside[a].any():
                scores = _blank(scores, 1 + a, self.outside[a], are_probabilities=like.are_probabilities)
        return scores.permute(self.order)

    @staticmethod
    def _along(scores: Tensor, a: int, positions: NDArray[np.float64]) -> Tensor:
        low = np.floor(positions + 1e-6).astype(np.int64)
        share = torch.from_numpy((positions - low).astype(np.float32)).to(scores.device)
        low_scores = scores.index_select(1 + a, torch.from_numpy(low).to(scores.device))
        if np.abs(positions - low).max() < 1e-5:
            return low_scores
        high = torch.from_numpy(np.minimum(low + 1, scores.shape[1 + a] - 1)).to(scores.device)
        return low_scores.lerp(scores.index_select(1 + a, high), share.reshape([-1 if d == a else 1 for d in range(3)]))


class _Sheared:
    """The general case, such as a tilted gantry: each plane of the target is a plane through the source."""

    def __init__(self, route: Route) -> None:
        self.route = route

    def __call__(self, held: _Held, plane: int, like: Slab) -> Float[Tensor, "classes i j k"]:
        route = self.route
        ranges = [np.arange(n) for n in route.to.shape]
        ranges[route.target_axis] = np.array([plane])
        indices = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)
        positions = indices @ route.mapping[:3, :3].T + route.mapping[:3, 3]
        last = np.array(route.source.shape) - 1
        outside = ((positions < -REACH) | (positions > last + REACH)).any(axis=-1)
        positions = np.clip(positions, 0, last)
        positions[..., route.axis] -= held.start
        size = np.array(held.scores.shape[1:])
        # grid_sample wants -1..1 between the first and last centre, last axis first.
        grid = 2 * positions / np.maximum(size - 1, 1) - 1
        scores = functional.grid_sample(
            held.scores[None],
            torch.from_numpy(grid[..., ::-1].astype(np.float32)).to(held.scores.device)[None],
            mode="bilinear" if route.interpolation == "linear" else "nearest",
            padding_mode="border",
            align_corners=True,
        )[0]
        scores = scores if like.head is None else like.head(scores)
        if outside.any():
            mask = torch.from_numpy(outside).to(scores.device)
            scores = torch.where(mask, _background(scores, are_probabilities=like.are_probabilities), scores)
        return scores


def _blank(scores: Tensor, dim: int, outside: NDArray[np.bool_], *, are_probabilities: bool) -> Tensor:
    """Make the marked lines along one axis background."""
    mask = torch.from_numpy(outside).to(scores.device)
    shape = [-1 if d == dim else 1 for d in range(scores.ndim)]
    return torch.where(mask.reshape(shape), _background(scores, are_probabilities=are_probabilities), scores)


def _background(scores: Tensor, *, are_probabilities: bool) -> Tensor:
    """(classes, 1, 1, 1): scores of a voxel that is certainly background."""
    certain = scores.new_full((scores.shape[0], 1, 1, 1), 0.0 if are_probabilities else _NEVER)
    certain[0] = 1.0 if are_probabilities else 0.0
    return certain
