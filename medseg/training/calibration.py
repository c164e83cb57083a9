"""Watching scores on their way to labels: how far their confidence can be trusted."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medseg.metrics import Reliability
from medseg.pipeline import Refiner
from medseg.volume import Segmentation, Slab, Volume


def watched(reliability: Reliability, reference: Segmentation) -> Refiner:
    """A refiner that changes nothing and counts, for every voxel that is or is taken for foreground, how sure it is.

    The other voxels are background in both and would make any network look calibrated.

    Args:
        reliability: Takes the counts.
        reference: Labels on the scan's own grid.
    """
    assert reference.labels is not None
    indices = torch.tensor((0, *reference.labels.indices))
    truth = torch.from_numpy(reference.array.astype("int64"))

    def watch(slabs: Iterator[Slab], volume: Volume) -> Iterator[Slab]:
        for slab in slabs:
            confidence, chosen = slab.probabilities.detach().float().max(dim=0)
            labels = indices[chosen.cpu()]
            expected = truth.narrow(slab.axis, slab.start, slab.stop - slab.start)
            counted = (labels != 0) | (expected != 0)
            reliability.add(confidence.cpu()[counted].numpy(), (labels == expected)[counted].numpy())
            yield slab

    return watch
