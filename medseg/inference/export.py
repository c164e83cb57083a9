"""From slabs of scores on the model's grid to labels on the scan's own, plane by plane, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from threading import Thread

from medseg.geometry import Geometry
from medseg.inference.head import Head
from medseg.inference.resample import resample
from medseg.inference.route import Interpolation, Route
from medseg.volume import LabelSlab, Slab

# Loading compiled code takes longer than all that torch does on smaller scans.
COMPILED_FROM_VOXELS = 2_000_000


def _load_kernels() -> None:
    import medseg.inference.compiled_export  # noqa: F401, PLC0415 - loads numba


def highest(slabs: Iterable[Slab]) -> Iterator[LabelSlab]:
    """The class of highest score of every voxel."""
    for slab in slabs:
        yield LabelSlab(slab.finished.scores.argmax(dim=0).cpu().numpy(), slab.axis, slab.start)


def export(
    slabs: Iterator[Slab],
    source: Geometry,
    *,
    to: Geometry,
    interpolation: Interpolation = "linear",
    compiled_from_voxels: int = COMPILED_FROM_VOXELS,
) -> Iterator[LabelSlab]:
    """What `highest(resample(slabs, …))` gives, interpolating scores only where that can change the class.

    Args:
        slabs: Complete planes on the grid `source`, ascending along one axis.
        source: The grid of the slabs.
        to: The grid that is wanted.
        interpolation: "linear" on the scores, or "nearest".
        compiled_from_voxels: The size of `to` from which compiled kernels are worth their loading.
    """
    is_large = math.prod(to.shape) >= compiled_from_voxels and not source.matches(to)
    if is_large:  # meanwhile: they are needed when the first planes are done
        loading = Thread(target=_load_kernels, name="kernels", daemon=True)
        loading.start()
    first = next(slabs)
    slabs = chain([first], slabs)
    route = Route(source, to, first.axis, interpolation)
    head = first.head
    is_plain = first.scores.device.type == "cpu" and route.is_separable
    del first  # a slab is held no longer than it is needed
    if is_large and is_plain and isinstance(head, Head | None):
        loading.join()
        from medseg.inference.compiled_export import export_compiled  # noqa: PLC0415 - loads numba

        yield from export_compiled(slabs, route, head)
    else:
        yield from highest(resample(slabs, source, to=to, interpolation=interpolation))
