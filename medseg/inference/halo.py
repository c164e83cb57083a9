"""Tiles with a halo: every voxel is seen once, with all around it that the network's answer there depends on.

For networks whose answer depends on a neighbourhood alone, the scores are those of the whole image at once, and cheaper
than windows that overlap by half. The neighbourhood is measured: NaN spreads through everything that depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.errors import ConfigError
from medseg.geometry import Shape
from medseg.inference.passes import Passes
from medseg.inference.planes import empty_planes

_PERIODS = (1, 2, 4, 8, 16, 32, 64)  # voxels after which a network's pooling repeats
_ACROSS = 32  # voxels of the probe across the axis that is measured
_LONGEST = 4  # windows: a network that depends on more depends on all
_SAME = 3e-5  # of the largest score: what rounding may change


def halo_tiles(
    run: Passes, planes: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[int, int, Float[Tensor, "channels i j k"]]]:
    """Scores of the whole volume, tile by tile.

    Args:
        run: The network, on the volume.
        planes: How many leave at once, at most.
        progress: Called with (tiles done, tiles in all).

    Yields:
        The first plane, the axis along which planes follow one another, and the scores of complete planes.

    Raises:
        ConfigError: If the network's answer depends on the whole image, or mirrored passes are asked for.
    """
    if run.windows.mirror_axes:
        raise ConfigError("Tiling halo does not go with mirrored passes; add --disable-tta.")
    with torch.inference_mode():
        run.through(_noise(run, 0, run.windows.size[0]), exact=True)  # finds the head, which NaN would hide
        reaches = [_reach(run, axis) for axis in range(3)]
    shape = run.prepared.geometry.shape
    cores = [_cores(n, size, period) for n, size, (_, period) in zip(shape, run.windows.size, reaches, strict=True)]
    kept = [core[1] * math.prod(shape) // shape[axis] for axis, core in enumerate(cores)]
    axis = kept.index(min(kept))
    others = [list(pairwise(cores[a])) for a in range(3) if a != axis]
    total = (len(cores[axis]) - 1) * len(others[0]) * len(others[1])
    done = 0
    for begin, end in pairwise(cores[axis]):
        slab: Tensor | None = None
        for across in product(*others):
            core = list(across)
            core.insert(axis, (begin, end))
            start = [max(low - halo, 0) for (low, _), (halo, _) in zip(core, reaches, strict=True)]
            stop = [min(high + halo, n) for (_, high), (halo, _), n in zip(core, reaches, shape, strict=True)]
            size = _shape(b - a for a, b in zip(start, stop, strict=True))
            with torch.inference_mode():
                scores = run.scores([_shape(start)], size)[0]
                if slab is None:
                    extent = [end - begin if a == axis else n for a, n in enumerate(shape)]
                    with torch.inference_mode(mode=False):
                        slab = empty_planes(scores, len(scores), extent, axis)
                inner = [slice(low - s, high - s) for (low, high), s in zip(core, start, strict=True)]
                outer = [slice(None) if a == axis else slice(*part) for a, part in enumerate(core)]
                slab[:, *outer] = scores[:, *inner]
                del scores
            done += 1
            progress(done, total)
        assert slab is not None  # every plane has a tile
        for first in range(begin, end, planes):
            yield first, axis, slab.narrow(1 + axis, first - begin, min(planes, end - first))


def _cores(length: int, size: int, period: int) -> list[int]:
    """Where the parts of an axis that tiles answer for begin, and its end: as long as a window, by whole periods."""
    step = max(-(-size // period) * period, 1)
    return [*range(0, length, step), length]


def _reach(run: Passes, axis: int) -> tuple[int, int]:
    """How many voxels along an axis the network's answer depends on to either side, and after how many it repeats.

    The first is a multiple of the second, so that tiles begin where the network's pooling does.
    """
    if run.windows.thin_axis == axis:
        return 0, 1
    window = run.windows.size[axis]
    for length in (window * n for n in (1, 2, _LONGEST)):
        middle = length // 2
        below = _finite(run, axis, length, slice(middle, None))
        above = _finite(run, axis, length, slice(None, middle))
        if below.any() and above.any():
            break
    else:
        raise ConfigError(
            "Tiling halo: the network's answer depends on the whole window, as instance normalisation or pooling over"
            " the image makes it; leave --tiling out."
        )
    seen = max(middle - int(below.nonzero()[-1]) - 1, int(above.nonzero()[0]) - middle, 0)
    margin = seen + _PERIODS[-1]
    image = _noise(run, axis, -(-(2 * margin + 2 * _PERIODS[-1]) // _PERIODS[-1]) * _PERIODS[-1])
    plain = run.through(image, exact=True)
    for period in _PERIODS:
        part = image.narrow(2 + axis, period, image.shape[2 + axis] - period).contiguous()
        moved = run.through(part, exact=True)
        count = moved.shape[2 + axis] - 2 * margin
        one, other = plain.narrow(2 + axis, margin + period, count), moved.narrow(2 + axis, margin, count)
        if (one - other).abs().max() <= _SAME * plain.abs().max():
            return -(-(seen + period - 1) // period) * period, period
    raise ConfigError(f"Tiling halo: the network repeats after no {_PERIODS[-1]} voxels or less; leave --tiling out.")


def _noise(run: Passes, axis: int, length: int) -> Float[Tensor, "1 c i j k"]:
    size = [1 if a == run.windows.thin_axis else min(n, _ACROSS) for a, n in enumerate(run.windows.size)]
    size[axis] = length
    channels = run.prepared.array.shape[0] * (2 * run.windows.context + 1)
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(run.device)


def _finite(run: Passes, axis: int, length: int, unknown: slice) -> Tensor:
    """Along an axis, where the answer does not depend on the voxels in `unknown`."""
    image = _noise(run, axis, length)
    image.movedim(2 + axis, 0)[unknown] = torch.nan
    scores = run.through(image, exact=True)
    return scores.isfinite().movedim(2 + axis, 0).flatten(1).all(dim=1)


def _shape(sizes: Iterable[int]) -> Shape:
    i, j, k = sizes
    return i, j, k
