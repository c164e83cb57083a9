"""Seconds and peak memory of what a case goes through."""

from __future__ import annotations

import time

from medseg.devices import peak_device_memory_mib
from medseg.ledger import Stage
from medseg.resources import peak_memory_mib


class Stages:
    """Seconds and peak memory of the steps of a case."""

    def __init__(self, device: str) -> None:
        self.done: list[Stage] = []
        self._device = device
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a step that began when the last one ended."""
        now = time.perf_counter()
        self.done.append(
            Stage(
                name=name,
                seconds=round(now - self._since, 3),
                peak_memory_mib=peak_memory_mib(),
                peak_device_memory_mib=peak_device_memory_mib(self._device),
            )
        )
        self._since = now
