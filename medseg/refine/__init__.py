"""Refiners: slabs of scores in, better slabs of scores out."""

from medseg.refine.components import clean_components as clean_components
from medseg.refine.components import component_refiner as component_refiner
from medseg.refine.crf import MeanField as MeanField
from medseg.refine.crf import dense_crf as dense_crf
from medseg.refine.presets import PRESETS as PRESETS
from medseg.refine.presets import CrfSettings as CrfSettings
from medseg.refine.pruning import Pruning as Pruning
from medseg.refine.streaming import Refiner as Refiner
from medseg.refine.streaming import crf_refiner as crf_refiner
from medseg.settings import ComponentSettings as ComponentSettings
