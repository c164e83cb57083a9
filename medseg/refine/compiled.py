"""The mean field of one image in compiled kernels: Potts compatibility, symmetric normalisation, single precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.refine.appearance import GridPlan, LatticePlan
from medseg.refine.compiled_grid import CompiledGrid
from medseg.refine.compiled_lattice import CompiledLattice
from medseg.refine.gaussian import gaussian_taps
from medseg.refine.gaussian_kernels import smooth_tiles, tile_count
from medseg.refine.grid import GridAxis
from medseg.refine.layout_kernels import gather, spread
from medseg.refine.pruning import likely_labels
from medseg.refine.threads import LANES, Floats, Gaussians, Team, team, zeros

# Kernels take so many voxels of a row at a time.
SHORTEST_ROW = 16


@runtime_checkable
class Appearance(Protocol):
    """An appearance kernel in compiled form.

    Attributes:
        pixels_last: Whether voxels come as (A, B, K, channels), filled up with zeros to a multiple of four channels;
            otherwise as (A, B, channels, K).
    """

    pixels_last: bool

    def prepare(self, team: Team, weight: float) -> Floats:
        """Normalise symmetrically and weigh; gives weight · n·K(n·1) of every voxel."""
        ...

    def begin(self, team: Team, q: Floats, channels: int) -> None:
        """Take in the first probabilities."""
        ...

    def update(self, team: Team, unary: Floats, q: Floats, gaussians: Gaussians, again: bool) -> None:
        """An iteration of the mean field.

        Args:
            team: Who does it.
            unary: log p_l - log p_0, less the weighted mass of the kernels.
            q: Smoothed along A, and by a lattice's caller along B; becomes the new probabilities.
            gaussians: What is left to smooth with, along B and K.
            again: Whether another iteration follows.
        """
        ...


class Smoothness:
    """weight · n·G(n·q) with G the Gaussian of `SmoothnessFilter`: n is a product of one factor for every axis.

    Args:
        shape: (A, B, K).
        sd_voxels: Along each.
        weight: Of the kernel.
    """

    def __init__(self, shape: Sequence[int], sd_voxels: Sequence[float], weight: float) -> None:
        self._shape = shape
        axes, masses = [], []
        for n, sd in zip(shape, sd_voxels, strict=True):
            taps = gaussian_taps(sd, n)
            both = torch.cat((taps[1:].flip(0), taps)).numpy()
            scale = torch.from_numpy(np.convolve(np.ones(n), both, "full")[taps.numel() - 1 :][:n]).rsqrt()
            masses.append(scale * torch.from_numpy(np.convolve(scale, both, "full")[taps.numel() - 1 :][:n]))
            axes.append((taps.float().numpy(), scale.float().numpy()))
        self._axes = axes
        self.mass: Floats = (weight * torch.einsum("a,b,k->abk", *masses)).float().numpy()
        along_k, scale_k = axes[2]
        # What the appearance kernel's update smooths with, while it has a part of the image in the cache.
        self.rest: Gaussians = (axes[1], (along_k * np.float32(weight), scale_k))

    def apply(self, team: Team, q: Floats, axes: Sequence[int]) -> None:
        """Smooth q along A or B or both, in place."""
        for axis in axes:
            n = self._shape[axis]
            if n > 1:
                taps, scale = self._axes[axis]
                pre = math.prod(self._shape[:axis])
                post = q.size // (pre * n)
                team.share(tile_count(pre, post), partial(smooth_tiles, q, n, post, taps, scale))


def compiled_crf(
    probabilities: Float[Tensor, "labels ..."],
    image: Float[Tensor, "channels ..."],
    plan: GridPlan | LatticePlan,
    *,
    smoothness_sd_voxels: Sequence[float],
    weights: tuple[float, float],
    iterations: int,
    tolerance: float,
) -> Float[Tensor, "labels ..."]:
    """As `dense_crf`, of tensors in single precision on the CPU.

    Args:
        probabilities: (L, *space).
        image: (C, *space).
        plan: For the appearance kernel.
        smoothness_sd_voxels: Along every axis.
        weights: Of the smoothness and the appearance kernel.
        iterations: Of the mean field.
        tolerance: For pruned labels; 0 keeps all.
    """
    space = image.shape[1:]
    axes = three_axes(space)
    shape = tuple(space[axis] if axis >= 0 else 1 for axis in axes)
    order = [axis for axis, n in enumerate(space) if n == 1] + [axis for axis in axes if axis >= 0]

    def ordered(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, *space).permute(0, *(1 + axis for axis in order)).reshape(-1, *shape)

    smoothness = Smoothness(shape, [smoothness_sd_voxels[axis] if axis >= 0 else 1.0 for axis in axes], weights[0])
    appearance: Appearance
    if isinstance(plan, GridPlan):
        appearance = CompiledGrid(ordered(image)[0], plan_along(plan.axes, axes))
    else:
        appearance = CompiledLattice(ordered(plan.features).flatten(1), shape[2], plan.mode)
    with team() as workers:
        mass = appearance.prepare(workers, weights[1]).reshape(shape) + smoothness.mass
        flat_p = ordered(probabilities)
        kept = likely_labels(flat_p.flatten(1), lambda: float(mass.max()), iterations, tolerance)
        q = _iterate(
            workers,
            probabilities=flat_p,
            kept=kept,
            mass=mass,
            smoothness=smoothness,
            appearance=appearance,
            iterations=iterations,
        )
    return q.reshape(-1, *(space[axis] for axis in order)).permute(
        0, *(1 + order.index(axis) for axis in range(len(order)))
    )


def _iterate(
    workers: Team,
    *,
    probabilities: Float[Tensor, "labels A B K"],
    kept: tuple[int, ...],
    mass: Floats,
    smoothness: Smoothness,
    appearance: Appearance,
    iterations: int,
) -> Float[Tensor, "labels A B K"]:
    """Of the kept labels those besides the first are carried, the first is what is missing to one."""
    labels, a, b, k = probabilities.shape
    channels, lines = len(kept) - 1, a * b
    result = np.zeros(probabilities.shape, np.float32)
    if channels == 0:
        result[kept[0]] = 1
        return torch.from_numpy(result)
    if len(kept) < labels:
        probabilities = probabilities[list(kept)]
    last = appearance.pixels_last
    depth = channels + -channels % LANES if last else 0
    unary, q = zeros(lines * k * (depth or channels)), zeros(lines * k * (depth or channels))
    p = probabilities.contiguous().numpy().reshape(-1)
    workers.share(lines, partial(spread, p, mass.reshape(-1), unary, q, channels, depth, k))
    appearance.begin(workers, q, channels)
    for iteration in range(iterations):
        smoothness.apply(workers, q, (0, 1) if last else (0,))
        again = iteration + 1 < iterations
        appearance.update(workers, unary, q, smoothness.rest, again)
    del unary
    numbers = np.array(kept)
    workers.share(lines, partial(gather, q, result.reshape(-1), numbers, channels, depth, k, lines))
    return torch.from_numpy(result)


def three_axes(shape: Sequence[int]) -> list[int]:
    """Which axes of an image become (A, B, K), -1 for an axis of one voxel: B is the first to be without.

    K is the last axis, or the longest where the last is shorter than a row may be.
    """
    long = [axis for axis, n in enumerate(shape) if n > 1]
    if shape[long[-1]] < SHORTEST_ROW:
        long.append(long.pop(long.index(max(long, key=lambda axis: shape[axis]))))
    return long if len(long) == 3 else [*long[:-1], *[-1] * (3 - len(long)), *long[-1:]]


def plan_along(plans: Sequence[GridAxis], axes: Sequence[int]) -> list[GridAxis]:
    """The grid's axes for A, B, K and the intensities."""
    single = GridAxis(1.0, 1, torch.ones(1, dtype=torch.float64))
    return [*(plans[axis] if axis >= 0 else single for axis in axes), plans[-1]]
