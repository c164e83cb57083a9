"""Compiled: union-find over runs of equal labels. Runs touch by faces: in a row, in neighbouring rows and planes."""

# ruff: noqa: PLR0917 - a compiled loop takes plain arrays, and a call costs

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

OPEN = -1  # a component of background that reaches the border or touches several labels
_ALONE = 0


@njit(cache=True)
@no_type_check
def _root(parent, run):
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@njit(cache=True)
@no_type_check
def _join(parent, one, other):
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@njit(cache=True)
@no_type_check
def _touching(starts, stops, shift, first, last, begin, end, visit_one, visit_other):
    """Pairs of a run of first … last, moved by `shift`, and a run of begin … end that overlap; gives how many."""
    count = 0
    here = first
    for run in range(begin, end):
        while here < last and stops[here] + shift <= starts[run]:
            here += 1
        one = here
        while one < last and starts[one] + shift < stops[run]:
            visit_one[count], visit_other[count] = one, run
            count += 1
            one += 1
    return count


@njit(cache=True)
@no_type_check
def pairs_of_plane(starts, stops, offsets, plane, follows, columns, one, other):
    """All pairs of touching runs that a plane adds: in its rows, between them, and with the plane before.

    Args:
        starts: Of all runs, in their flattened plane.
        stops: One past their ends.
        offsets: (planes + 1,) first run of every plane.
        plane: Which.
        follows: Whether the plane before is its neighbour.
        columns: Length of a row.
        one: Filled with one run of every pair; there is room for three for each run of both planes.
        other: Filled with the other.
    """
    first, last = offsets[plane], offsets[plane + 1]
    count = 0
    for run in range(first + 1, last):
        if starts[run] % columns != 0:
            one[count], other[count] = run - 1, run
            count += 1
    count += _touching(starts, stops, columns, first, last, first, last, one[count:], other[count:])
    if follows:
        before = offsets[plane - 1]
        count += _touching(starts, stops, 0, before, first, first, last, one[count:], other[count:])
    return count


@njit(cache=True)
@no_type_check
def join_equal(labels, one, other, count, parent):
    """Join the runs of pairs whose labels are equal."""
    for k in range(count):
        if labels[one[k]] == labels[other[k]]:
            _join(parent, one[k], other[k])


@njit(cache=True)
@no_type_check
def roots_and_sizes(starts, stops, parent):
    """Point every run at the first of its component; gives the voxels of every component, at its first run."""
    sizes = np.zeros(parent.size, np.int64)
    for run in range(parent.size):
        parent[run] = _root(parent, run)
        sizes[parent[run]] += stops[run] - starts[run]
    return sizes


@njit(cache=True)
@no_type_check
def note_neighbours(labels, one, other, count, parent, enclosing):
    """Note at every component of background the label that touches it, OPEN if several do."""
    for k in range(count):
        for background, label in ((one[k], labels[other[k]]), (other[k], labels[one[k]])):
            if labels[background] == 0 and label != 0:
                root = parent[background]
                if enclosing[root] == _ALONE:
                    enclosing[root] = label
                elif enclosing[root] != label:
                    enclosing[root] = OPEN


@njit(cache=True)
@no_type_check
def note_border(starts, stops, first, last, shape, bounded, ends, parent, enclosing):
    """Note OPEN at the components of a plane's runs that reach the border.

    Args:
        starts: As of `pairs_of_plane`, and so `stops`.
        stops: See there.
        first: Run of the plane.
        last: One past its last.
        shape: Rows and columns of the plane.
        bounded: Whether the image ends along rows, and along columns.
        ends: Whether the plane itself is at the border.
        parent: First run of every run's component.
        enclosing: Noted at that.
    """
    rows, columns = shape
    for run in range(first, last):
        row, column = starts[run] // columns, starts[run] % columns
        length = stops[run] - starts[run]
        at_row = bounded[0] and (row in {0, rows - 1})
        at_column = bounded[1] and (column == 0 or column + length == columns)
        if ends or at_row or at_column:
            enclosing[parent[run]] = OPEN
