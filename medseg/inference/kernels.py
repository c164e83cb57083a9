"""Compiled code, loaded meanwhile: that takes longer than all that torch does on smaller scans."""

from __future__ import annotations

import math
from functools import cache
from threading import Thread

from medseg.geometry import Geometry

COMPILED_FROM_VOXELS = 2_000_000


def are_worth_loading(scan: Geometry) -> bool:
    """Whether a scan is large enough."""
    return math.prod(scan.shape) >= COMPILED_FROM_VOXELS


@cache
def load_ahead() -> Thread:
    """Begin to load them; whoever needs them then joins the thread."""
    loading = Thread(target=_load, name="kernels", daemon=True)
    loading.start()
    return loading


def _load() -> None:
    import medseg.inference.compiled_export  # noqa: F401, PLC0415 - loads numba
