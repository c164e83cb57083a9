"""Volumes to models: case lists, preparation in memory, augmentation, Lightning, and the model card."""

from __future__ import annotations

from medseg.training.cross_validation import cross_validate
from medseg.training.run import train

__all__ = ["cross_validate", "train"]
