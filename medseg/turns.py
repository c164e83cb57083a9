"""One study at a time on a GPU, however many processes of a machine want it.

Two studies on one GPU are no faster than one after the other, and may be more than its memory holds. Reading, writing
and hashing of the others go on meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.locks import exclusive


@contextmanager
def turn(device: str) -> Iterator[bool]:
    """Have a GPU alone among medseg's processes that see the same folder for temporary files; others wait.

    Args:
        device: As torch calls it; any but a GPU of CUDA's is had at once.

    Yields:
        Whether there was something to wait for.
    """
    name = _gpu(device)
    if name is None:
        yield False
        return
    with exclusive(Path(tempfile.gettempdir()) / f"medseg-gpu-{name}.lock"):
        try:
            yield True
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what torch keeps in reserve is memory that the next process needs


def _gpu(device: str) -> str | None:
    """What tells a GPU from all others, whatever number it has in this process; None for other devices."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.startswith("cuda") else None
