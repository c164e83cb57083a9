"""How far two label arrays cover the same voxels: all labels from one pass over the voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError

Labels = NDArray[np.integer[Any]]
Voxels = NDArray[np.int64]
Values = NDArray[np.float64]

_CHUNK_VOXELS = 1 << 21  # keeps what a pass holds at once near the processor's cache, whatever the arrays' size
_BYTE = 256


class Counted(Protocol):
    """What the overlap of n regions follows from; `voxels` are all that were compared, background among them."""

    @property
    def reference_voxels(self) -> Voxels: ...  # noqa: D102
    @property
    def prediction_voxels(self) -> Voxels: ...  # noqa: D102
    @property
    def shared_voxels(self) -> Voxels: ...  # noqa: D102
    @property
    def voxels(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Counts:
    """Voxels (n,) of n regions, each one label or several taken together."""

    reference_voxels: Voxels
    prediction_voxels: Voxels
    shared_voxels: Voxels
    voxels: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each label of the reference meets each label of the prediction.

    Attributes:
        indices: The n label numbers that occur in either array, ascending; 0 (background) always comes first.
        counts: (n, n) voxels; `counts[r, p]` are indices[r] in the reference and indices[p] in the prediction.
    """

    indices: tuple[int, ...]
    counts: NDArray[np.int64]

    @property
    def reference_voxels(self) -> NDArray[np.int64]:
        """(n,) voxels of each label in the reference."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def prediction_voxels(self) -> NDArray[np.int64]:
        """(n,) voxels of each label in the prediction."""
        return np.asarray(self.counts.sum(axis=0))

    @property
    def shared_voxels(self) -> NDArray[np.int64]:
        """(n,) voxels of each label in both."""
        return self.counts.diagonal()

    @property
    def voxels(self) -> int:
        """All voxels that were compared."""
        return int(self.counts.sum())

    def ignoring(self, label: int) -> Confusion:
        """Without the voxels that have this label in the reference, whatever the prediction says there."""
        counts = self.counts.copy()
        counts[[index == label for index in self.indices]] = 0
        return Confusion(self.indices, counts)

    def __add__(self, other: Confusion) -> Confusion:
        """The counts of two cases as those of one."""
        indices = tuple(sorted({*self.indices, *other.indices}))
        counts = np.zeros((len(indices), len(indices)), dtype=np.int64)
        for one in (self, other):
            places = np.searchsorted(indices, one.indices)
            counts[np.ix_(places, places)] += one.counts
        return Confusion(indices, counts)

    def of_regions(self, regions: Sequence[tuple[int, ...]]) -> Counts:
        """The counts of regions, each the union of some labels; a label may be in several of them."""
        member = np.array([np.isin(self.indices, region) for region in regions]).reshape(-1, len(self.indices))
        shared = np.einsum("ni,ij,nj->n", member, self.counts, member)
        return Counts(member @ self.reference_voxels, member @ self.prediction_voxels, shared, self.voxels)


def confusion(reference: Labels, prediction: Labels, indices: tuple[int, ...] = ()) -> Confusion:
    """Count all pairs of labels in one pass, without one-hot arrays.

    Args:
        reference: Label numbers, any shape, memory order and integer type.
        prediction: Label numbers of the same shape.
        indices: Labels to list even where neither array has them.

    Raises:
        GeometryError: If the shapes differ.
        InputError: If a label is negative.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"Prediction is {prediction.shape}, reference {reference.shape}; resample the prediction to the reference."
        )
    arrays = (reference, prediction)
    lowest = min(_extreme(array, np.min) for array in arrays)
    if lowest < 0:
        raise InputError(f"Label {lowest} is negative; labels are whole numbers from 0 (background).")
    if max(_extreme(array, np.max) for array in arrays) < _BYTE:
        return _count(arrays, np.arange(_BYTE), listed=indices)
    return _count(arrays, _present(arrays), listed=indices)


def dice(pairs: Counted) -> Values:
    """(n,) Dice similarity, 2|R∩P| / (|R|+|P|); NaN for a label that is absent in both."""
    return _ratio(2 * pairs.shared_voxels, pairs.reference_voxels + pairs.prediction_voxels)


def iou(pairs: Counted) -> Values:
    """(n,) intersection over union (Jaccard), |R∩P| / |R∪P|; NaN for a label that is absent in both."""
    return _ratio(pairs.shared_voxels, pairs.reference_voxels + pairs.prediction_voxels - pairs.shared_voxels)


def sensitivity(pairs: Counted) -> Values:
    """(n,) share of the reference that is found (recall), |R∩P| / |R|; NaN where the reference has none."""
    return _ratio(pairs.shared_voxels, pairs.reference_voxels)


def precision(pairs: Counted) -> Values:
    """(n,) share of the prediction that is right, |R∩P| / |P|; NaN where the prediction has none."""
    return _ratio(pairs.shared_voxels, pairs.prediction_voxels)


def specificity(pairs: Counted) -> Values:
    """(n,) share of the other voxels that stay free, |¬R∩¬P| / |¬R|; NaN for a label that is absent in both.

    It follows the field of view more than the result: a larger scan alone brings it nearer to 1.
    """
    free = pairs.voxels - pairs.reference_voxels - pairs.prediction_voxels + pairs.shared_voxels
    present = pairs.reference_voxels + pairs.prediction_voxels > 0
    return np.where(present, _ratio(free, pairs.voxels - pairs.reference_voxels), np.nan)


def mean_iou(pairs: Counted) -> float:
    """Mean of the IoU of all classes, background among them, that occur in either array; NaN if none does."""
    values = iou(pairs)
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def frequency_weighted_iou(pairs: Counted) -> float:
    """Mean of the IoU of all classes, background among them, each weighted by its voxels in the reference."""
    return float(np.nansum(iou(pairs) * pairs.reference_voxels) / pairs.voxels) if pairs.voxels else np.nan


def pixel_accuracy(pairs: Counted) -> float:
    """Share of the voxels that have the right label, background among them."""
    return float(pairs.shared_voxels.sum() / pairs.voxels) if pairs.voxels else np.nan


def _ratio(part: Voxels, whole: Voxels) -> Values:
    # No evidence either way where the whole is nothing; the report counts such labels as "absent in both".
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))


def _extreme(array: Labels, function: Callable[[Labels], Any]) -> int:
    """The least or greatest value; 0, without a pass, where the type already says that labels are bytes."""
    if array.dtype == np.uint8 or array.size == 0:
        return 0
    return int(function(array))


def _chunks(arrays: tuple[Labels, Labels]) -> Iterator[tuple[Labels, Labels]]:
    """Both arrays' voxels in pieces, in the reference's memory order."""
    order = np.argsort([-abs(stride) for stride in arrays[0].strides], kind="stable")
    reference, prediction = (np.atleast_1d(array.transpose(order)) for array in arrays)
    planes = max(1, _CHUNK_VOXELS * len(reference) // max(1, reference.size))
    for start in range(0, len(reference), planes):
        yield reference[start : start + planes].ravel(), prediction[start : start + planes].ravel()


def _present(arrays: tuple[Labels, Labels]) -> NDArray[np.int64]:
    """Every label number that occurs, ascending, and 0."""
    found = {0}
    for chunk in _chunks(arrays):
        for array in chunk:
            found.update(np.unique(array).tolist())
    return np.array(sorted(found), dtype=np.int64)


def _count(arrays: tuple[Labels, Labels], numbers: NDArray[np.int64], listed: tuple[int, ...]) -> Confusion:
    """Count pairs of label numbers that are all among `numbers`; keep the rows that are used or listed."""
    size = len(numbers)
    dense = numbers[-1] == size - 1
    code = np.dtype(np.uint16 if size <= _BYTE else np.int64)
    flat = np.zeros(size * size, dtype=np.int64)
    for reference, prediction in _chunks(arrays):
        rows, columns = (chunk if dense else np.searchsorted(numbers, chunk) for chunk in (reference, prediction))
        pairs = rows.astype(code)
        pairs *= size
        pairs += columns.astype(code)
        flat += np.bincount(pairs, minlength=size * size)
    counts = flat.reshape(size, size)
    used = {0, *listed, *numbers[(counts.sum(axis=0) + counts.sum(axis=1)) > 0].tolist()}
    indices = tuple(sorted(used))
    table = np.zeros((len(indices), len(indices)), dtype=np.int64)
    known = np.isin(indices, numbers)
    places = np.searchsorted(numbers, np.array(indices)[known])
    table[np.ix_(known, known)] = counts[np.ix_(places, places)]
    return Confusion(indices, table)
