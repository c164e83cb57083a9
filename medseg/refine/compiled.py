"""The mean field of one image in compiled kernels: Potts compatibility, symmetric normalisation, single precision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.refine.appearance import GridPlan, LatticePlan
from medseg.refine.compiled_grid import CompiledGrid
from medseg.refine.compiled_lattice import CompiledLattice
from medseg.refine.gaussian import gaussian_taps, toeplitz
from medseg.refine.gaussian_kernels import TAPS_AT_ONCE, TILE, smooth_rows, smooth_tiles
from medseg.refine.grid import GridAxis
from medseg.refine.lane_kernels import LANES
from medseg.refine.pruning import likely_labels, with_pruned_labels
from medseg.refine.threads import Team, team

Floats: TypeAlias = NDArray[np.float32]

# A score that no message can lift: of the lanes that are no label.
_NEVER = -1e6


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

    def update(self, team: Team, unary: Floats, message: Floats, q: Floats) -> None:
        """Add the kernel's messages to the others, and turn all into new probabilities in q."""
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
        self._axes: list[tuple[Floats, Floats]] = []
        masses = []
        for axis, (n, sd) in enumerate(zip(shape, sd_voxels, strict=True)):
            taps = gaussian_taps(sd, n)
            matrix = toeplitz(taps, n, n)
            scale = matrix.sum(1).rsqrt()
            masses.append(scale * (matrix @ scale))
            padded = torch.nn.functional.pad(taps, (0, (1 - taps.numel()) % TAPS_AT_ONCE))
            padded = padded * (weight if axis == len(shape) - 1 else 1.0)
            self._axes.append((padded.float().numpy(), scale.float().numpy()))
        self.mass: Floats = (weight * torch.einsum("a,b,k->abk", *masses)).float().numpy()

    def apply(self, team: Team, q: Floats, message: Floats, channels: int, *, pixels_last: bool) -> None:
        """Smooth q into the message; `channels` as they are stored."""
        a, b, k = self._shape
        rows, last = (1, channels) if pixels_last else (channels, 1)
        # Slowest, length and fastest of every axis: (A, B, rows, K, last).
        sizes = ((1, a, b * rows * k * last), (a, b, rows * k * last), (a * b * rows, k, last))
        source, factor = q, 1.0
        for (pre, n, post), (taps, scale) in zip(sizes, self._axes, strict=True):
            if n == 1:
                factor *= taps[0] * scale[0] ** 2
                continue
            if post == 1:
                team.share(pre, partial(smooth_rows, source, message, n, taps, scale))
            else:
                team.share(pre * -(-post // TILE), partial(smooth_tiles, source, message, n, post, taps, scale))
            source = message
        if source is q or factor != 1:
            np.multiply(source, np.float32(factor), out=message)


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
    axes = three_axes(image.shape[1:])
    shape = tuple(image.shape[1 + axis] if axis >= 0 else 1 for axis in axes)
    smoothness = Smoothness(shape, [smoothness_sd_voxels[axis] if axis >= 0 else 1.0 for axis in axes], weights[0])
    appearance: Appearance
    if isinstance(plan, GridPlan):
        flat = plan_along(plan.axes, axes)
        appearance = CompiledGrid(image.reshape(shape), flat)
    else:
        appearance = CompiledLattice(plan.features, shape[2], plan.mode)
    with team() as workers:
        mass = appearance.prepare(workers, weights[1]).reshape(shape) + smoothness.mass
        flat_p = probabilities.reshape(-1, *shape)
        kept = likely_labels(flat_p.flatten(1), lambda: float(mass.max()), iterations, tolerance)
        if len(kept) < len(probabilities):
            flat_p = flat_p[list(kept)]
        q = _iterate(
            workers,
            probabilities=flat_p,
            mass=mass,
            smoothness=smoothness,
            appearance=appearance,
            iterations=iterations,
        )
    return with_pruned_labels(q, kept, len(probabilities)).reshape(probabilities.shape)


def _iterate(
    workers: Team,
    *,
    probabilities: Float[Tensor, "labels A B K"],
    mass: Floats,
    smoothness: Smoothness,
    appearance: Appearance,
    iterations: int,
) -> Float[Tensor, "labels A B K"]:
    """Labels besides the first are carried, the first is what is missing to one."""
    a, b, k = probabilities.shape[1:]
    channels = probabilities.shape[0] - 1
    last = appearance.pixels_last
    stored = channels + -channels % LANES if last else channels
    if channels == 0:
        return torch.ones_like(probabilities)
    log_p = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log_()
    unary = _stored(log_p[1:].sub_(log_p[0]).sub_(torch.from_numpy(mass)), last, _NEVER)
    del log_p
    q = _stored(probabilities[1:] / probabilities.sum(0), last)
    message = np.empty_like(q)
    for _ in range(iterations):
        smoothness.apply(workers, q, message, stored, pixels_last=last)
        appearance.update(workers, unary, message, q)
    del message, unary
    found = torch.from_numpy(q).reshape((a, b, k, stored) if last else (a, b, channels, k))
    result = torch.empty_like(probabilities)
    result[1:] = found.movedim(3 if last else 2, 0)[:channels]
    torch.sum(result[1:], 0, out=result[0])
    result[0].neg_().add_(1).clamp_min_(0)
    return result


def _stored(voxels: Float[Tensor, "channels A B K"], pixels_last: bool, filler: float = 0.0) -> Floats:
    order = voxels.movedim(0, 3) if pixels_last else voxels.movedim(0, 2)
    if pixels_last:
        order = torch.nn.functional.pad(order, (0, -voxels.shape[0] % LANES), value=filler)
    flat: Floats = order.contiguous().numpy().reshape(-1)
    return flat


def three_axes(shape: Sequence[int]) -> list[int]:
    """Which axes of an image become (A, B, K), -1 for an axis of one voxel: B is the first to be without."""
    long = [axis for axis, n in enumerate(shape) if n > 1]
    return long if len(long) == 3 else [*long[:-1], *[-1] * (3 - len(long)), *long[-1:]]


def plan_along(plans: Sequence[GridAxis], axes: Sequence[int]) -> list[GridAxis]:
    """The grid's axes for A, B, K and the intensities."""
    single = GridAxis(1.0, 1, torch.ones(1, dtype=torch.float64))
    return [*(plans[axis] if axis >= 0 else single for axis in axes), plans[-1]]
