"""Connected components of labels that are held as runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.refine import component_kernels as kernels

Integers: TypeAlias = NDArray[np.int32]


class Components:
    """The components of all runs of a volume, by faces (6 neighbours).

    Args:
        starts: For every plane where its runs start, in the flattened plane.
        labels: For every plane the labels of its runs.
        numbers: Of the planes, ascending.
        shape: Rows and columns of a plane.
        planes: How many the volume has.
    """

    def __init__(
        self,
        starts: Sequence[Integers],
        labels: Sequence[Integers],
        numbers: Sequence[int],
        shape: tuple[int, int],
        planes: int,
    ) -> None:
        self._numbers, self._shape, self._planes = numbers, shape, planes
        self._offsets = np.cumsum([0, *(len(s) for s in starts)])
        size = shape[0] * shape[1]
        self._starts = np.concatenate(starts)
        self._stops = np.concatenate([np.append(s[1:], size) for s in starts]).astype(np.int32)
        self._labels = np.concatenate(labels)

    def remove(self, min_voxels: float, keep_largest: bool, only: tuple[int, ...]) -> None:
        """Turn small components, or all but the largest of a label, to background; `only` of these labels, or all."""
        sizes = self._components()
        firsts = np.flatnonzero(sizes)
        label = self._labels[firsts]
        chosen = (label != 0) & (np.isin(label, only) if only else True)
        gone = chosen & (sizes[firsts] < min_voxels)
        if keep_largest:
            order = np.lexsort((firsts, -sizes[firsts], label))  # by label, the largest first, then the first
            is_largest = np.zeros(len(firsts), dtype=bool)
            is_largest[order[np.unique(label[order], return_index=True)[1]]] = True
            gone |= chosen & ~is_largest
        removed = np.zeros(len(sizes), dtype=bool)
        removed[firsts[gone]] = True
        self._labels[removed[self._parent]] = 0

    def fill_holes(self, only: tuple[int, ...]) -> None:
        """Give background that one label encloses that label; of these labels, or of all."""
        self._components()
        enclosing = np.zeros(len(self._labels), np.int32)
        for plane, one, other, count in self._pairs():
            kernels.note_neighbours(self._labels, one, other, count, self._parent, enclosing)
            first, last = self._offsets[plane : plane + 2]
            bounded = (self._shape[0] > 1, self._shape[1] > 1)
            ends = self._planes > 1 and self._is_end(plane)
            kernels.note_border(
                self._starts, self._stops, first, last, self._shape, bounded, ends, self._parent, enclosing
            )
        label = enclosing[self._parent]
        filled = (self._labels == 0) & (label > 0) & (np.isin(label, only) if only else True)
        self._labels[filled] = label[filled]

    def by_plane(self) -> list[Integers]:
        """The labels of every plane's runs."""
        return np.split(self._labels, self._offsets[1:-1])

    def _is_end(self, plane: int) -> bool:
        """Whether the volume, or what is known of it, ends with this plane."""
        before = plane > 0 and self._numbers[plane - 1] == self._numbers[plane] - 1
        after = plane + 1 < len(self._numbers) and self._numbers[plane + 1] == self._numbers[plane] + 1
        return not (before and after)

    def _components(self) -> NDArray[np.int64]:
        """Find the components; gives the voxels of each, at its first run."""
        self._parent = np.arange(len(self._labels))
        for _, one, other, count in self._pairs():
            kernels.join_equal(self._labels, one, other, count, self._parent)
        sizes: NDArray[np.int64] = kernels.roots_and_sizes(self._starts, self._stops, self._parent)
        return sizes

    def _pairs(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], int]]:
        """For every plane the pairs of touching runs that it adds."""
        for plane, number in enumerate(self._numbers):
            follows = plane > 0 and self._numbers[plane - 1] == number - 1
            runs = self._offsets[plane + 1] - self._offsets[max(plane - 1, 0)]
            # Two lists of intervals overlap in fewer pairs than they have intervals together.
            one, other = np.empty((2, 3 * runs), np.int64)
            count = kernels.pairs_of_plane(
                self._starts, self._stops, self._offsets, plane, follows, self._shape[1], one, other
            )
            yield plane, one, other, count
