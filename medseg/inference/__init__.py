"""From a prepared volume to complete planes of class scores on any grid, never holding the whole."""

from medseg.inference.body import around_body
from medseg.inference.compiling import Compiler
from medseg.inference.export import export, highest
from medseg.inference.kernels import are_worth_loading, load_ahead
from medseg.inference.resample import resample
from medseg.inference.sweep import PLANES_PER_SLAB, Progress, features, predict, silent
from medseg.inference.windows import plan_sweep

__all__ = [
    "PLANES_PER_SLAB",
    "Compiler",
    "Progress",
    "are_worth_loading",
    "around_body",
    "export",
    "features",
    "highest",
    "load_ahead",
    "plan_sweep",
    "predict",
    "resample",
    "silent",
]
