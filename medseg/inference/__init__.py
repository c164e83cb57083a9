"""From a prepared volume to complete planes of class scores on any grid, never holding the whole."""

from medseg.inference.resample import resample
from medseg.inference.sweep import Progress, predict, silent

__all__ = ["Progress", "predict", "resample", "silent"]
