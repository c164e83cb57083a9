"""How much memory and time a scan takes, found out before it is segmented."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medseg.geometry import Geometry
from medseg.inference import PLANES_PER_SLAB, features, plan_sweep
from medseg.model import Model
from medseg.prepare import prepare
from medseg.resources import memory_mib, peak_memory_mib
from medseg.volume import Volume

_MIB = 2**20
_FLOAT = 4
# What is in hand of planes on their way to the labels: their averages, a copy that has the channels last, and the
# copy of the slab before, which the planes between the two still need.
_COPIES = 3
_KERNELS_MIB = 105.0  # loading the compiled kernels


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
    """
    started = time.perf_counter()
    prepared = prepare(volume, model.preparation)
    prepared_s = time.perf_counter() - started
    sweep = plan_sweep(prepared.geometry.shape, model.windows)
    passes = 2 ** len(model.windows.mirror_axes)
    held = memory_mib()
    channels, window_s, network_mib = _one_window(prepared, model, device)

    extent = [max(n, size) for n, size in zip(prepared.geometry.shape, sweep.size, strict=True)]
    extent[sweep.axis] = sweep.size[sweep.axis]
    ring = channels * math.prod(extent) * _FLOAT / _MIB
    slab = _COPIES * channels * PLANES_PER_SLAB * math.prod(extent) // sweep.size[sweep.axis] * _FLOAT / _MIB
    labels = math.prod(volume.geometry.shape) * np.dtype(model.labels.dtype).itemsize / _MIB
    peak = held + max(network_mib, slab) + ring + labels + _KERNELS_MIB
    seconds = {"read": read_s, "prepare": prepared_s, "network": window_s * len(sweep)}
    return Plan(len(sweep) * passes, seconds, max(peak, peak_memory_mib() or 0.0), ring)


def _one_window(prepared: Volume, model: Model, device: torch.device | str) -> tuple[int, float, float]:
    """Channels that are averaged, seconds, and MiB, of the second of two windows: the first also warms up."""
    size = model.windows.size
    part = np.ascontiguousarray(prepared.array[:, : size[0], : size[1], : size[2]])
    window = Volume(part, Geometry(part.shape[1:], prepared.geometry.affine))
    before = memory_mib()
    for _ in range(2):
        started = time.perf_counter()
        slabs = list(features(window, model.network, model.windows, device=device))
        seconds = time.perf_counter() - started
    channels = int(slabs[0].scores.shape[0])
    # The planes of the one window are not the network's; the ring counts them.
    own = 2 * channels * math.prod(size) * _FLOAT / _MIB
    return channels, seconds, max((peak_memory_mib() or before) - before - own, 0.0)
