"""Refiners: slabs of scores in, better slabs of scores out."""

from medseg.refine.crf import MeanField as MeanField
from medseg.refine.crf import dense_crf as dense_crf
