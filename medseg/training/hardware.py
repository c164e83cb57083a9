"""The machine that training runs on: its name, its arithmetic, and the trainer's manners on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from medseg.devices import has_bfloat16


def accelerator(device: str, processes: int = 1) -> tuple[str, list[int] | int]:
    """What Lightning calls a device of torch, or so many of its kind."""
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return "gpu", [int(number)] if processes == 1 else processes
    return kind, processes


def rank() -> int:
    """Which of the processes that train together this one is, from 0."""
    return torch.distributed.get_rank() if _is_shared() else 0


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _is_shared() else 1


def gathered(own: list[Any]) -> list[Any]:
    """The entries of all processes, of the first one first."""
    if not _is_shared():
        return own
    shares: list[Any] = [None] * processes()
    torch.distributed.all_gather_object(shares, own)
    return [entry for share in shares for entry in share]


def _is_shared() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def precision(setting: str, accelerator: str) -> Any:
    """Lightning's name of the arithmetic; "auto" is bfloat16 where the device computes with it directly."""
    if setting == "auto":
        setting = "bfloat16" if has_bfloat16({"gpu": "cuda"}.get(accelerator, accelerator)) else "float32"
    return {"bfloat16": "bf16-mixed", "float32": "32-true"}[setting]


def describe(device: torch.device, processes: int = 1) -> str:
    """The kind of machine, such as "2 CPU core(s)", for the model card."""
    if processes > 1:
        return f"{processes} processes, each on {describe(device)}"
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return "one Apple GPU" if device.type == "mps" else f"{torch.get_num_threads()} CPU core(s)"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and advice off the screen; errors still come through."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def deterministic() -> Iterator[None]:
    """Restore the process's settings, which the trainer changes, afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = fill
