"""Volumes to models: case lists, preparation in memory, augmentation, Lightning, and the model card."""

from __future__ import annotations

from medseg.training.run import train

__all__ = ["train"]
