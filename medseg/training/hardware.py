"""The machine that training runs on: its name, its arithmetic, and the trainer's manners on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def accelerator(device: str) -> tuple[str, list[int] | int]:
    """What Lightning calls a device of torch."""
    kind, _, number = device.partition(":")
    return ("gpu", [int(number)]) if kind == "cuda" else (kind, 1)


def precision(setting: str, accelerator: str) -> Any:
    """Lightning's name of the arithmetic; "auto" is bfloat16 where the device computes with it directly."""
    if setting == "auto":
        probes = {"gpu": _cuda_has_bfloat16, "cpu": _cpu_has_bfloat16}
        setting = "bfloat16" if accelerator in probes and probes[accelerator]() else "float32"
    return {"bfloat16": "bf16-mixed", "float32": "32-true"}[setting]


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _cpu_has_bfloat16() -> bool:
    # PyTorch has no public probe; where these are gone, float32 is always right.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)


def describe(device: torch.device) -> str:
    """The kind of machine, such as "2 CPU core(s)", for the model card."""
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
