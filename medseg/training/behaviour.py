"""What a model does with scans that it was not made for: measured, so that the card can say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.errors import InputError
from medseg.formats import read
from medseg.geometry import Geometry
from medseg.model import Model
from medseg.pipeline import segment
from medseg.training.module import dice_per_label, mean_defined
from medseg.volume import Segmentation, Volume


def behaviour(
    model: Model, volume: Volume, reference: Segmentation, others: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """Try a model on what is unlike the scans it was trained on.

    Args:
        model: To try.
        volume: A scan that took no part in training; the others are made of it.
        reference: Its labels.
        others: Files of scans of other kinds, by what they are.

    Returns:
        For each kind of scan what came of it, in words.
    """
    array = volume.array.astype(np.float32)
    noise = np.random.default_rng(0).normal(array.mean(), array.std(), array.shape).astype(np.float32)
    return {
        "the same value everywhere": _labelled(model, replace(volume, array=np.zeros_like(array))),
        "noise with the mean and deviation of a held-out scan": _labelled(model, replace(volume, array=noise)),
        "a held-out scan, as it is": _dice(model, volume, reference),
        **{
            f"the same, turned by a quarter about the {name} axis while its header says otherwise": _dice(
                model, *turned
            )
            for name, turned in _quarter_turns(model, volume, reference)
        },
        **{
            what: _labelled(model, read(path)) if path.exists() else "not tried: there is no such file"
            for what, path in (others or {}).items()
        },
    }


def _labelled(model: Model, volume: Volume) -> str:
    try:
        found = segment(volume, model)
    except InputError:
        return "refused"
    return f"{100 * float((found.array > 0).mean()):.2g} % of the voxels labelled"


def _dice(model: Model, volume: Volume, reference: Segmentation) -> str:
    found = dice_per_label(reference, segment(volume, model), model.labels)
    return f"mean Dice {mean_defined(list(found.values())):.3f}"


def _quarter_turns(
    model: Model, volume: Volume, reference: Segmentation
) -> Iterator[tuple[str, tuple[Volume, Segmentation]]]:
    """The voxels turned, the direction of each axis kept, so that the header no longer tells where a voxel lies."""
    thin = model.windows.thin_axis
    for axis, name in enumerate(("first", "second", "third")):
        if thin is not None and axis != thin:
            continue
        first, second = (other for other in range(3) if other != axis)
        turned = np.rot90(reference.array, axes=(first, second))
        lengths = np.array(volume.geometry.spacing_mm)
        steps = lengths.copy()
        steps[[first, second]] = steps[[second, first]]
        affine = volume.geometry.affine.copy()
        affine[:3, :3] *= steps / lengths
        geometry = Geometry(turned.shape, affine)
        array = np.ascontiguousarray(np.rot90(volume.array, axes=(first + 1, second + 1)))
        yield (
            name,
            (
                replace(volume, array=array, geometry=geometry),
                replace(reference, array=np.ascontiguousarray(turned), geometry=geometry),
            ),
        )
