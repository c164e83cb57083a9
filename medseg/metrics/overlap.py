"""How far two label arrays cover the same voxels: all labels from one pass over the voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, InputError

Labels = NDArray[np.integer[Any]]

_CHUNK_VOXELS = 1 << 21  # keeps what a pass holds at once near the processor's cache, whatever the arrays' size
_BYTE = 256


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


def dice(pairs: Confusion) -> NDArray[np.float64]:
    """(n,) Dice similarity, 2|R∩P| / (|R|+|P|); NaN for a label that is absent in both."""
    return _ratio(2 * pairs.shared_voxels, pairs.reference_voxels + pairs.prediction_voxels)


def iou(pairs: Confusion) -> NDArray[np.float64]:
    """(n,) intersection over union (Jaccard), |R∩P| / |R∪P|; NaN for a label that is absent in both."""
    return _ratio(pairs.shared_voxels, pairs.reference_voxels + pairs.prediction_voxels - pairs.shared_voxels)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    # No evidence either way where the whole is nothing; the report counts such labels as "absent in both".
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


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
