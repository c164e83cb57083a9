"""Medical image segmentation on the scans people really have: files in, files out, geometry exact.

    import medseg
    volume = medseg.read("scan.nii.gz")
    segmentation = medseg.segment(volume, medseg.load_model("hippocampus-mr"))
    medseg.write(segmentation, "scan_seg.nii.gz")

Names are imported when they are first used, so that `import medseg` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.formats import read as read
    from medseg.formats import scan as inspect
    from medseg.formats import write as write
    from medseg.model import load_model as load_model
    from medseg.pipeline import evaluate as evaluate
    from medseg.pipeline import segment as segment

__all__ = ["__version__", "evaluate", "inspect", "load_model", "read", "segment", "write"]

__version__ = "0.1.0"

_HOMES = {
    "evaluate": ("medseg.pipeline", "evaluate"),
    "inspect": ("medseg.formats", "scan"),
    "load_model": ("medseg.model", "load_model"),
    "read": ("medseg.formats", "read"),
    "segment": ("medseg.pipeline", "segment"),
    "write": ("medseg.formats", "write"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
