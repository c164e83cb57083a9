"""How much memory and time a scan takes, found out before it is segmented."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from medseg.config import Windows
from medseg.errors import ConfigError, ResourceError
from medseg.geometry import Geometry
from medseg.inference import PLANES_PER_SLAB, are_worth_loading, features, plan_sweep
from medseg.model import Model
from medseg.resources import memory_kept, memory_mib, peak_memory_mib
from medseg.volume import Volume

_MIB = 2**20
_FLOAT = 4
_COPIES = 2  # of planes on their way to the labels, while later windows run
_KERNELS_MIB = 105.0  # loading the compiled kernels
_WRITING_MIB = 15.0  # loading what draws the preview; what writes DICOM takes up to 100 more
_NARROWEST = 32  # voxels: windows are not made smaller than this


@dataclass(frozen=True)
class Plan:
    """What segmenting a scan will take.

    Attributes:
        windows: How often the network runs, mirrored passes counted.
        seconds: By stage: read, prepare, network (the other stages take less than these).
        peak_memory_mib: Of the process, on the host.
        ring_mib: Of that, the planes that later windows still touch; on the device.
    """

    windows: int
    seconds: dict[str, float]
    peak_memory_mib: float
    ring_mib: float

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        seconds = {stage: round(value, 2) for stage, value in self.seconds.items()}
        memory = {"peak_memory_mib": round(self.peak_memory_mib, 1), "ring_mib": round(self.ring_mib, 1)}
        return {"windows": self.windows, "seconds": seconds, **memory}


def plan(volume: Volume, model: Model, *, device: torch.device | str = "cpu", read_s: float = 0.0) -> Plan:
    """Prepare a scan, send one window of it through the network, and work out the rest.

    Args:
        volume: The scan.
        model: What to segment it with.
        device: Where the network runs.
        read_s: Seconds that reading the scan took.

    Raises:
        ConfigError: If the model lays tiles with a halo, whose memory is not foreseen.
    """
    _require_foreseen(model.windows)
    started = time.perf_counter()
    prepared = model.prepared(volume)
    prepare_s = time.perf_counter() - started
    made = _planned(volume, prepared, model, _one_window(prepared, model, device), spill=False)
    seconds = {"read": read_s, "prepare": prepare_s, **made.seconds}
    return replace(made, seconds=seconds, peak_memory_mib=max(made.peak_memory_mib, peak_memory_mib() or 0.0))


@dataclass(frozen=True)
class Fit:
    """How a scan is segmented within a limit.

    Attributes:
        windows: The model's own, or narrower ones.
        spill: Whether the planes that later windows still touch wait in a temporary file; the labels are the same.
        plan: What it will take.
        prepared: The scan, prepared by the model.
    """

    windows: Windows
    spill: bool
    plan: Plan
    prepared: Volume


def fit(volume: Volume, model: Model, limit_mib: float, *, device: torch.device | str = "cpu") -> Fit:
    """The first way to segment a scan that keeps to a limit: as it is; with sums in a file; with narrower windows.

    Args:
        volume: The scan.
        model: What to segment it with.
        limit_mib: Memory that the process may hold on the host. A dense CRF is not counted.
        device: Where the network runs.

    Raises:
        ResourceError: If no way does.
        ConfigError: If the model lays tiles with a halo, whose memory is not foreseen.
    """
    _require_foreseen(model.windows)
    prepared = model.prepared(volume)
    least = math.inf
    for windows, ways in groupby(_ways(model.windows), itemgetter(0)):
        way = replace(model, windows=windows)
        window = _one_window(prepared, way, device)
        for _, spill in ways:
            made = _planned(volume, prepared, way, window, spill=spill)
            if made.peak_memory_mib <= limit_mib:
                return Fit(windows, spill, made, prepared)
            least = min(least, made.peak_memory_mib)
    raise ResourceError(
        f"The scan needs about {least:.0f} MiB at least, more than the {limit_mib:.0f} MiB of --max-memory; crop it, or"
        " choose a model of a coarser grid."
    )


def _ways(windows: Windows) -> Iterator[tuple[Windows, bool]]:
    yield windows, False
    while True:
        yield windows, True
        i, j, k = (max(n // 32 * 16, _NARROWEST) if n > _NARROWEST else n for n in windows.size)
        if (i, j, k) == windows.size:
            return
        windows = windows.model_copy(update={"size": (i, j, k)})


def _require_foreseen(windows: Windows) -> None:
    if windows.tiling == "halo":
        raise ConfigError("The memory of --tiling halo is not foreseen; leave --tiling or --max-memory out.")


@dataclass(frozen=True)
class _Window:
    """What one window takes: channels that are averaged, seconds, MiB of the network, and MiB held before it."""

    channels: int
    seconds: float
    network_mib: float
    held_mib: float


def _planned(volume: Volume, prepared: Volume, model: Model, window: _Window, *, spill: bool) -> Plan:
    sweep = plan_sweep(prepared.geometry.shape, model.windows)
    passes = 2 ** len(model.windows.mirror_axes)
    ring = window.channels * math.prod(sweep.ring_shape(prepared.geometry.shape)) * _FLOAT / _MIB
    slab = _COPIES * ring * PLANES_PER_SLAB / sweep.size[sweep.axis]
    voxels = math.prod(volume.geometry.shape)
    labels = voxels * np.dtype(model.labels.dtype).itemsize / _MIB
    kernels = _KERNELS_MIB if are_worth_loading(volume.geometry) and "numba" not in sys.modules else 0.0
    waiting = (
        window.channels * math.prod(sweep.size) * _FLOAT / _MIB if spill else ring
    )  # of a file, what a window touches
    peak = window.held_mib + labels + max(window.network_mib + slab + waiting + kernels, labels + _WRITING_MIB)
    return Plan(len(sweep) * passes, {"network": window.seconds * len(sweep)}, peak, 0.0 if spill else ring)


def _one_window(prepared: Volume, model: Model, device: torch.device | str) -> _Window:
    """Measure the second of two windows: the first also warms up."""
    held = memory_mib()
    size = model.windows.size
    part = np.ascontiguousarray(prepared.array[:, : size[0], : size[1], : size[2]])
    window = Volume(part, Geometry(part.shape[1:], prepared.geometry.affine))
    with memory_kept():  # so that what was held at most is still there
        before = memory_mib()
        for _ in range(2):
            started = time.perf_counter()
            slabs = list(features(window, model.network, model.windows, device=device))
            seconds = time.perf_counter() - started
        own = sum(slab.scores.numel() for slab in slabs) * _FLOAT / _MIB
        return _Window(int(slabs[0].scores.shape[0]), seconds, max(memory_mib() - before - own, 0.0), held)
