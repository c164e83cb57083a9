"""Compiled kernels on several threads, which wait without spinning: spinning starves whoever shares the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numba
import torch


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

    def share(self, length: int, work: Callable[[int, int], object]) -> None:
        """Call work(first, last) for spans that cover 0 … length."""
        parts = spans(length, self.size)
        if self._pool is None or len(parts) == 1:
            for first, last in parts:
                work(first, last)
            return
        for done in [self._pool.submit(work, first, last) for first, last in parts]:
            done.result()


@contextmanager
def team() -> Iterator[Team]:
    """A team for one image. What is compiled meanwhile may use vector registers for straight code too."""
    size = torch.get_num_threads()
    before = numba.config.SLP_VECTORIZE
    numba.config.SLP_VECTORIZE = 1
    try:
        if size == 1:
            yield Team(None, 1)
        else:
            with ThreadPoolExecutor(size, thread_name_prefix="crf") as pool:
                yield Team(pool, size)
    finally:
        numba.config.SLP_VECTORIZE = before
