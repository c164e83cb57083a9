"""From a prepared volume to complete planes of class scores on any grid, never holding the whole."""

from medseg.inference.body import around_body
from medseg.inference.export import COMPILED_FROM_VOXELS, export, highest
from medseg.inference.resample import resample
from medseg.inference.sweep import PLANES_PER_SLAB, Progress, features, predict, silent
from medseg.inference.windows import plan_sweep

__all__ = [
    "COMPILED_FROM_VOXELS",
    "PLANES_PER_SLAB",
    "Progress",
    "around_body",
    "export",
    "features",
    "highest",
    "plan_sweep",
    "predict",
    "resample",
    "silent",
]
