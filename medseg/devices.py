"""The devices that torch can run on."""

from __future__ import annotations

import gc
import re

import torch

from medseg.errors import ConfigError

_GPU = re.compile(r"(?:gpu|cuda)(?::(\d+))?")


def choose_device(name: str | None) -> str:
    """What torch calls a device: "cuda:0" for gpu and gpu:0, "mps", "cpu"; the best there is for None.

    Raises:
        ConfigError: If there is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name is None:
        return "cuda:0" if gpus else "mps" if mps else "cpu"
    if match := _GPU.fullmatch(name):
        number = int(match[1] or 0)
        if number < gpus:
            return f"cuda:{number}"
        found = f"{gpus} GPU(s), numbered from 0" if gpus else "no GPU"
        raise ConfigError(f"Device {name}: torch {torch.__version__} sees {found}; choose another, such as cpu.")
    if name == "cpu" or (name == "mps" and mps):
        return name
    raise ConfigError(f"Device {name}: not available; choose gpu, gpu:0, cpu or mps.")


def device_title(device: str) -> str:
    """The device for people, with the name of the GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def has_bfloat16(device: str) -> bool:
    """Whether a device computes with bfloat16 directly; asked of the machine at hand."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public probe; where these are gone, float32 is always right.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device == "cpu" and any(probe() for probe in probes if probe is not None)


def free_memory() -> None:
    """Give back what nothing needs any more, also on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_device_memory_mib(device: str) -> float | None:
    """The most GPU memory that torch has held so far; None for other devices."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.startswith("cuda") else None
