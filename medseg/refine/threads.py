"""Compiled kernels on several threads, which wait without spinning: spinning starves whoever shares the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
# (taps, scale) of the smoothness kernel along B and along K.
Gaussians: TypeAlias = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]

# Channels come in blocks of so many.
LANES = 4
# Work on fewer numbers is done before another thread has woken up.
WORTH_A_THREAD = 1 << 17


def zeros(size: int) -> Floats:
    """Zeros that begin where a line of the cache does: a vector that lies in two lines takes twice as long to load."""
    room = np.zeros(size + 16, np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + size]


def spans(length: int, parts: int) -> list[tuple[int, int]]:
    """`length` in at most `parts` consecutive spans (first, one past the last) that are equal within one."""
    count = max(min(parts, length), 1)
    ends = [length * k // count for k in range(count + 1)]
    return list(pairwise(ends))


class Team:
    """As many threads as torch uses; the kernels release the interpreter's lock."""

    def __init__(self, pool: ThreadPoolExecutor | None, size: int) -> None:
        self._pool = pool
        self.size = size

    def share(self, length: int, work: Callable[[int, int], object], numbers: int | None = None) -> None:
        """Call work(first, last) for spans that cover 0 … length, on few threads if it is on few numbers."""
        parts = spans(length, self.size if numbers is None else min(self.size, 1 + numbers // WORTH_A_THREAD))
        if self._pool is None or len(parts) == 1:
            for first, last in parts:
                work(first, last)
            return
        others = [self._pool.submit(work, first, last) for first, last in parts[1:]]
        try:
            work(*parts[0])
        finally:
            wait(others)
        for done in others:
            done.result()

    def add_up(
        self,
        length: int,
        target: Floats,
        reach: Callable[[int, int], slice],
        work: Callable[[Floats, int, int], object],
    ) -> None:
        """Call work(part, first, last), which adds to target[reach(first, last)], for spans that cover 0 … length.

        Spans meet in the target, so all but the first are given a part of their own, added when all is done.
        """
        parts: dict[int, tuple[slice, Floats]] = {}

        def span(first: int, last: int) -> None:
            where = reach(first, last)
            part = target[where] if first == 0 else np.zeros_like(target[where])
            parts[first] = (where, part)
            work(part, first, last)

        self.share(length, span)
        for first, (where, part) in sorted(parts.items()):
            if first > 0:
                target[where] += part


@contextmanager
def team() -> Iterator[Team]:
    """A team for one scan."""
    size = torch.get_num_threads()
    if size == 1:
        yield Team(None, 1)
    else:
        with ThreadPoolExecutor(size - 1, thread_name_prefix="kernels") as pool:  # the caller is one of the team
            yield Team(pool, size)
