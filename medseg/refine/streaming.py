"""A dense CRF over a volume of any depth, a window of planes at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.errors import ConfigError
from medseg.refine.crf import dense_crf
from medseg.refine.presets import CrfSettings, preset
from medseg.volume import Slab, Volume

Refiner: TypeAlias = Callable[[Iterator[Slab], Volume], Iterator[Slab]]

# Planes within this many sd on either side of a window's own are refined with it and thrown away: measured, 0.2 % of
# the voxels that the CRF changes then differ from the whole volume at once (tests/refine/test_crf_streaming.py).
HALO_SD = 3.0
# What a window holds at most, counting probabilities and the mean field's buffers.
_WINDOW_BYTES = 3 * 2**30
_BUFFERS = 8


def crf_refiner(settings: str | CrfSettings) -> Refiner:
    """A refiner for `pipeline.segment` that runs a dense CRF on the scan's own grid.

    Windows of planes are refined with a halo on either side, so memory depends on the size of a plane and on the
    standard deviations, not on the depth of the volume.

    Args:
        settings: Or the name of a preset.

    Raises:
        ConfigError: If no preset has that name; while refining, if the settings do not suit the scan.
    """
    chosen = preset(settings) if isinstance(settings, str) else settings

    def refine(slabs: Iterator[Slab], volume: Volume) -> Iterator[Slab]:
        first, second = next(slabs, None), next(slabs, None)
        slabs = chain((slab for slab in (first, second) if slab is not None), slabs)
        if first is not None and second is not None and second.start < first.start:
            # The scan's axis runs against the model's, so its planes come from the last to the first.
            upside_down = replace(volume, array=np.flip(volume.array, 1 + first.axis))
            refined = ascending(_mirrored(slabs, volume), upside_down)
            yield from _mirrored(refined, volume)
        else:
            yield from ascending(slabs, volume)

    def ascending(slabs: Iterator[Slab], volume: Volume) -> Iterator[Slab]:
        factor, offset = chosen.grey_levels(volume.array)
        for window, planes in _windows(slabs, volume, chosen):
            image = _grey_levels(_planes(volume.array, window), factor, offset, chosen.intensity is not None)
            refined = _refine(window.probabilities.float(), image, volume, chosen)
            inner = slice(planes.start - window.start, planes.stop - window.start)
            yield Slab(_along(refined, window.axis, inner), window.axis, planes.start, are_probabilities=True)

    return refine


def _mirrored(slabs: Iterator[Slab], volume: Volume) -> Iterator[Slab]:
    """The same slabs in a scan whose axis runs the other way."""
    for slab in slabs:
        start = volume.geometry.shape[slab.axis] - slab.stop
        yield replace(slab, scores=slab.scores.flip(1 + slab.axis), start=start)


def _refine(
    probabilities: Float[Tensor, "classes I J K"],
    image: Float[Tensor, "channels I J K"],
    volume: Volume,
    settings: CrfSettings,
) -> Float[Tensor, "classes I J K"]:
    if not bool(torch.isfinite(image).all()):
        image = torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)  # outside the field of view
    try:
        return dense_crf(
            probabilities,
            image.to(probabilities.device),
            spacing_mm=settings.spacing(volume.geometry.spacing_mm),
            smoothness_weight=settings.smoothness_weight,
            smoothness_sd_mm=settings.smoothness_sd,
            appearance_weight=settings.appearance_weight,
            appearance_sd_mm=settings.appearance_sd,
            appearance_sd_value=settings.appearance_sd_value,
            iterations=settings.iterations,
            accurate=settings.accurate,
            prune=settings.prune,
        )
    except ValueError as error:  # such as a standard deviation for grey levels 0-255 on a scan of other intensities
        raise ConfigError(f"The CRF's settings do not suit this scan: {error}") from error


def _windows(slabs: Iterator[Slab], volume: Volume, settings: CrfSettings) -> Iterator[tuple[Slab, range]]:
    """Overlapping windows, each with the planes that are its own; together those are every plane that comes, once."""
    held: Slab | None = None
    done = 0
    halo = 0
    for slab in slabs:
        if held is None or slab.start != held.stop:
            if held is not None:  # planes are missing in between: nothing crosses the gap
                yield from _last(held, done)
            held, done = Slab(slab.probabilities, slab.axis, slab.start, True), slab.start
            halo = _halo(slab, volume, settings)
        else:
            joined = torch.cat((held.scores, slab.probabilities), dim=1 + held.axis)
            held = Slab(joined, held.axis, held.start, True)
        own = max(2 * halo, 8)
        while held.stop - done >= own + halo:
            yield held, range(done, done + own)
            done += own
            kept = slice(max(done - halo, held.start) - held.start, None)
            held = Slab(_along(held.scores, held.axis, kept).clone(), held.axis, max(done - halo, held.start), True)
    if held is not None:
        yield from _last(held, done)


def _last(held: Slab, done: int) -> Iterator[tuple[Slab, range]]:
    if held.stop > done:
        yield held, range(done, held.stop)


def _halo(slab: Slab, volume: Volume, settings: CrfSettings) -> int:
    """Planes of margin on either side of a window."""
    classes, *shape = slab.scores.shape
    spacing = settings.spacing(volume.geometry.spacing_mm)[slab.axis]
    reach = HALO_SD * max(settings.appearance_sd, settings.smoothness_sd) / spacing
    plane = classes * math.prod(shape) // shape[slab.axis]
    most = _WINDOW_BYTES // (4 * _BUFFERS * plane)  # a window is four halos deep
    return max(min(math.ceil(reach), most // 4), 1)


def _planes(array: np.ndarray, window: Slab) -> np.ndarray:
    index = [slice(None)] * 4
    index[1 + window.axis] = slice(window.start, window.stop)
    return array[tuple(index)]


def _grey_levels(array: np.ndarray, factor: float, offset: float, clip: bool) -> Float[Tensor, "channels I J K"]:
    levels = (array.astype(np.float32) - np.float32(offset)) * np.float32(factor)
    return torch.from_numpy(np.clip(levels, 0, 255) if clip else levels)


def _along(scores: Float[Tensor, "classes I J K"], axis: int, planes: slice) -> Float[Tensor, "classes I2 J2 K2"]:
    index = [slice(None)] * 4
    index[1 + axis] = planes
    return scores[tuple(index)]
