"""From a prepared volume to complete planes of class scores on any grid, never holding the whole."""

from medseg.inference.export import export, highest
from medseg.inference.resample import resample
from medseg.inference.sweep import Progress, features, predict, silent

__all__ = ["Progress", "export", "features", "highest", "predict", "resample", "silent"]
