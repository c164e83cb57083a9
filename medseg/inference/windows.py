"""Where windows lie on a volume, how they are weighed, and in which order they are visited."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from medseg.config import Windows
from medseg.geometry import Shape

# How much further apart windows may lie where they are spread evenly.
_STRETCH = 1.25
_SD = 0.125  # of the length of a window
_LEAST = 1e-3  # so that the corners of windows count


@dataclass(frozen=True)
class Sweep:
    """Windows in the order in which they are visited.

    Attributes:
        size: Window in voxels (I, J, K).
        starts: First voxels of the windows along each axis, ascending; negative where a window begins in padding.
        axis: The axis of the sweep: only the planes along it that a later window can still touch are kept.
    """

    size: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    axis: int

    @property
    def stops(self) -> tuple[int, ...]:
        """First planes along the axis of the sweep, one a stop, ascending."""
        return self.starts[self.axis]

    @property
    def windows_per_stop(self) -> int:
        """Windows that begin in the same plane."""
        return len(self) // len(self.stops)

    def ring_shape(self, shape: Shape) -> Shape:
        """Voxels (I, J, K) of the planes that wait for later windows: as deep as a window, padding included."""
        extent = [max(n, size) for n, size in zip(shape, self.size, strict=True)]
        extent[self.axis] = self.size[self.axis]
        return extent[0], extent[1], extent[2]

    def windows_at(self, stop: int) -> Iterator[Shape]:
        """First voxels (i, j, k) of the windows that begin in plane `stop` along the axis of the sweep."""
        starts = [(stop,) if axis == self.axis else positions for axis, positions in enumerate(self.starts)]
        return product(starts[0], starts[1], starts[2])

    def __len__(self) -> int:
        return math.prod(len(positions) for positions in self.starts)


def plan_sweep(shape: Shape, windows: Windows) -> Sweep:
    """Lay windows over a volume as MONAI's `sliding_window_inference` does.

    Windows step by `size * (1 - overlap)`; the last one along an axis is moved back to end with the volume, unless they
    are spread evenly. An axis shorter than the window is padded on both sides. The sweep goes along the axis that keeps
    the fewest voxels.

    Args:
        shape: Voxels (I, J, K) of the prepared volume.
        windows: Size and overlap.
    """
    lay = _spread if windows.tiling == "even" else _starts
    starts = [lay(n, size, windows.overlap) for n, size in zip(shape, windows.size, strict=True)]
    padded = [max(n, size) for n, size in zip(shape, windows.size, strict=True)]
    kept = [windows.size[axis] * math.prod(padded) // padded[axis] for axis in range(3)]
    return Sweep(windows.size, (starts[0], starts[1], starts[2]), axis=kept.index(min(kept)))


def _starts(length: int, size: int, overlap: float) -> tuple[int, ...]:
    if length <= size:
        return (-((size - length) // 2),)
    step = max(int(size * (1 - overlap)), 1)
    count = math.ceil((length - size) / step) + 1
    return tuple(min(n * step, length - size) for n in range(count))


def _spread(length: int, size: int, overlap: float) -> tuple[int, ...]:
    if length <= size:
        return _starts(length, size, overlap)
    step = max(int(size * (1 - overlap)), 1)
    count = math.ceil((length - size) / min(_STRETCH * step, size)) + 1
    return tuple(round(n * (length - size) / (count - 1)) for n in range(count))


def window_weights(windows: Windows) -> Float[Tensor, "i j k"]:
    """Weight of each voxel of a window in the average of overlapping windows: as MONAI's `compute_importance_map`."""
    weights = torch.ones(windows.size)
    if windows.weights == "gaussian":
        for axis, n in enumerate(windows.size):
            offsets = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
            line = torch.exp(offsets**2 / (-2 * (_SD * n) ** 2))
            weights = weights * line.reshape([-1 if a == axis else 1 for a in range(3)])
    return weights.clamp(min=max(float(weights.min()), _LEAST))


def cut(
    array: NDArray[Any], start: Shape, size: Shape, padding_value: float, *, context: tuple[int, int] = (0, 0)
) -> Shaped[Tensor, "c i j k"]:
    """One window of a volume (C, I, J, K), filled with `padding_value` beyond its border.

    Args:
        array: The prepared volume.
        start: First voxel (i, j, k), possibly negative.
        size: Voxels (I, J, K).
        padding_value: What lies beyond the volume.
        context: (axis, slices): also take so many neighbours on each side along this thin axis, as further channels,
            slice by slice; at the ends the last slice repeats.
    """
    axis, neighbours = context
    if neighbours:
        last = array.shape[1 + axis] - 1
        slices = [
            cut(array, _moved(start, axis, min(max(start[axis] + offset, 0), last)), size, padding_value)
            for offset in range(-neighbours, neighbours + 1)
        ]
        return torch.cat(slices)
    inside = [slice(max(s, 0), min(s + n, length)) for s, n, length in zip(start, size, array.shape[1:], strict=True)]
    part = torch.from_numpy(array[:, *inside])
    if part.shape[1:] == size:
        return part
    window = torch.full((array.shape[0], *size), padding_value)
    window[:, *[slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True)]] = part
    return window


def _moved(start: Shape, axis: int, to: int) -> Shape:
    moved = list(start)
    moved[axis] = to
    return moved[0], moved[1], moved[2]
