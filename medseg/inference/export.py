"""From slabs of scores on the model's grid to labels on the scan's own, plane by plane, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from medseg.geometry import Geometry
from medseg.inference.head import Head
from medseg.inference.kernels import are_worth_loading, load_ahead
from medseg.inference.resample import resample
from medseg.inference.route import Interpolation, Route
from medseg.volume import LabelSlab, Slab


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
    compiled: bool | None = None,
) -> Iterator[LabelSlab]:
    """What `highest(resample(slabs, …))` gives, interpolating scores only where that can change the class.

    Args:
        slabs: Complete planes on the grid `source`, ascending along one axis.
        source: The grid of the slabs.
        to: The grid that is wanted.
        interpolation: "linear" on the scores, or "nearest".
        compiled: Whether by compiled code where that can be; by default if that is worth its loading.
    """
    wanted = are_worth_loading(to) if compiled is None else compiled
    loading = load_ahead() if wanted and not source.matches(to) else None
    first = next(slabs)
    slabs = chain([first], slabs)
    route = Route(source, to, first.axis, interpolation)
    head = first.head
    is_plain = first.scores.device.type == "cpu" and route.is_separable
    del first  # a slab is held no longer than it is needed
    if loading is not None and is_plain and isinstance(head, Head | None):
        loading.join()
        from medseg.inference.compiled_export import export_compiled  # noqa: PLC0415 - loads numba

        yield from export_compiled(slabs, route, head)
    else:
        yield from highest(resample(slabs, source, to=to, interpolation=interpolation))
