"""Which filter stands for the appearance kernel of an image, in torch or compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.refine.grid import BilateralGrid, GridAxis, plan_grid
from medseg.refine.lattice import ACCURATE, USUAL, Lattice, LatticeMode
from medseg.refine.operators import Operator
from medseg.refine.window import LARGEST_WINDOW, WindowFilter, reach_voxels


@dataclass(frozen=True, eq=False)
class GridPlan:
    """A bilateral grid: one channel."""

    axes: list[GridAxis]


@dataclass(frozen=True, eq=False)
class LatticePlan:
    """A permutohedral lattice: several channels, or one whose grid would be mostly empty."""

    features: Tensor
    mode: LatticeMode


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Every pair of pixels within reach: a small spatial sd."""

    features: Tensor
    reach: list[int]


Plan: TypeAlias = GridPlan | LatticePlan | WindowPlan


def plan_appearance(
    image: Float[Tensor, "channels ..."],
    sd_voxels: Sequence[float],
    sd_value: float | Sequence[float],
    accurate: bool,
) -> Plan:
    """The filter for an image (C, *space), by its channels and the standard deviations."""
    channels, shape = image.shape[0], image.shape[1:]
    sds = [float(sd_value)] * channels if isinstance(sd_value, int | float) else [float(sd) for sd in sd_value]
    reach = reach_voxels(shape, sd_voxels)
    if math.prod(2 * r + 1 for r in reach) <= LARGEST_WINDOW:
        return WindowPlan(_features(image, sd_voxels, sds), reach)
    if channels == 1:
        axes = plan_grid(shape, sd_voxels, float(image.amax() - image.amin()), sds[0])
        if axes is not None:
            return GridPlan(axes)
    # An axis of one voxel would cost a dimension of the lattice for nothing.
    varying = [n > 1 for n in shape] + [True] * channels
    features = _features(image, sd_voxels, sds).flatten(1)[varying]
    return LatticePlan(features, ACCURATE if accurate or channels == 1 else USUAL)


def _features(
    image: Float[Tensor, "channels ..."], sd_voxels: Sequence[float], sd_values: Sequence[float]
) -> Float[Tensor, "features ..."]:
    """Positions and intensities in units of their sd, in float64: intensities may lie far from zero."""
    axes = [
        torch.arange(n, dtype=torch.float64, device=image.device) / sd
        for n, sd in zip(image.shape[1:], sd_voxels, strict=True)
    ]
    values = [(channel - channel.amin()).double() / sd for channel, sd in zip(image, sd_values, strict=True)]
    return torch.stack((*torch.meshgrid(*axes, indexing="ij"), *values))


def appearance_operator(image: Float[Tensor, "channels ..."], plan: Plan) -> Operator:
    """The plan's filter as an operator; a lattice on the CPU in single precision is compiled."""
    match plan:
        case GridPlan(axes):
            return BilateralGrid(image, axes)
        case WindowPlan(features, reach):
            return WindowFilter(features, reach, image.dtype)
        case LatticePlan(features, mode):
            if image.device.type == "cpu" and image.dtype == torch.float32:
                # Numba takes half a second to import: only who filters pays it.
                from medseg.refine.compiled_lattice import CompiledLattice  # noqa: PLC0415

                return CompiledLattice(features, image.shape[-1], mode)
            return Lattice(features, image.dtype, mode)
