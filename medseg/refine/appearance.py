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
        return WindowPlan(_features(image, sd_voxels, sds, torch.float64), reach)
    if channels == 1:
        axes = plan_grid(shape, sd_voxels, float(image.amax() - image.amin()), sds[0])
        if axes is not None:
            return GridPlan(axes)
    return LatticePlan(
        _features(image, sd_voxels, sds, image.dtype).flatten(1), ACCURATE if accurate or channels == 1 else USUAL
    )


def _features(
    image: Float[Tensor, "channels ..."], sd_voxels: Sequence[float], sd_values: Sequence[float], dtype: torch.dtype
) -> Float[Tensor, "features ..."]:
    """Positions along the axes of more than one voxel, then intensities from the lowest, in units of their sd."""
    shape = image.shape[1:]
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    features = torch.empty(len(axes) + len(image), *shape, dtype=dtype, device=image.device)
    for position, axis in zip(features, axes, strict=False):
        along = torch.arange(shape[axis], dtype=torch.float64, device=image.device) / sd_voxels[axis]
        position[:] = along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    for value, channel, sd in zip(features[len(axes) :], image, sd_values, strict=True):
        torch.sub(channel, channel.amin(), out=value)  # intensities may lie far from zero
        value.div_(sd)
    return features


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
