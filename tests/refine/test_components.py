from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medseg.geometry import Geometry
from medseg.refine import ComponentSettings, clean_components, component_refiner
from medseg.refine.components import Runs
from medseg.volume import Segmentation, Slab, Volume

LARGEST = ComponentSettings(keep_largest=True)
HOLES = ComponentSettings(fill_holes=True)


def clean(array: NDArray[Any], settings: ComponentSettings, spacing: tuple[float, ...] = (1, 1, 1)) -> NDArray[Any]:
    geometry = Geometry(array.shape, np.diag([*spacing, 1.0]))
    return clean_components(Segmentation(array, geometry), settings).array


def noise(shape: tuple[int, ...], labels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((labels, *shape)), (0, 1, 1, 1))
    return smooth.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("shape", [(14, 12, 10), (1, 20, 20), (20, 1, 20), (20, 20, 1)])
def test_largest_components_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    array = noise(shape)
    expected = np.zeros_like(array)
    for label in (1, 2):
        components, count = ndimage.label(array == label)
        assert count > 1
        sizes = np.bincount(components.ravel())[1:]
        assert (sizes == sizes.max()).sum() == 1, "the largest must be one"
        expected[components == 1 + sizes.argmax()] = label
    np.testing.assert_array_equal(clean(array, LARGEST), expected)


@pytest.mark.parametrize("voxels", [2, 10, 40])
def test_small_components_are_those_of_scipy(voxels: int) -> None:
    array = noise((14, 12, 10))
    expected = array.copy()
    for label in (1, 2):
        components, _ = ndimage.label(array == label)
        sizes = np.bincount(components.ravel())
        expected[(components > 0) & (sizes[components] < voxels)] = 0
    assert (expected != array).any()
    cleaned = clean(array, ComponentSettings(min_volume_mm3=voxels * 1.5), (1.0, 0.5, 3.0))
    np.testing.assert_array_equal(cleaned, expected)


@pytest.mark.parametrize("shape", [(14, 12, 10), (1, 20, 20), (20, 20, 1)])
def test_filled_holes_of_a_single_label_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    array = (noise(shape, 2, seed=3) == 0) | (noise(shape, 3, seed=4) == 1)
    flat = array.squeeze()
    expected = ndimage.binary_fill_holes(flat).reshape(shape)
    assert (expected != array).any()
    np.testing.assert_array_equal(clean(array.astype(np.uint8), HOLES), expected)


def test_a_hole_between_two_labels_and_one_that_reaches_the_border_stay() -> None:
    array = np.ones((7, 7, 7), np.uint8)
    array[:4] = 2
    array[3:5, 3, 3] = 0  # touches both labels
    array[2, 0, 2] = 0  # reaches the border
    array[1, 1, 1] = 0
    expected = array.copy()
    expected[1, 1, 1] = 2
    np.testing.assert_array_equal(clean(array, HOLES), expected)


def test_a_tumour_within_an_organ_is_no_hole() -> None:
    array = np.ones((5, 5, 5), np.uint8)
    array[2, 2, 2] = 2
    np.testing.assert_array_equal(clean(array, HOLES), array)


def test_a_removed_island_in_a_hole_is_filled_with_it() -> None:
    array = np.ones((9, 9, 9), np.uint8)
    array[2:7, 2:7, 2:7] = 0
    array[4, 4, 4] = 1
    settings = ComponentSettings(keep_largest=True, fill_holes=True)
    assert (clean(array, settings) == 1).all()


def test_only_the_named_labels_are_cleaned() -> None:
    array = np.zeros((1, 5, 9), np.uint8)
    array[0, 1, :3], array[0, 3, :1] = 1, 1
    array[0, 1, 5:], array[0, 3, 5] = 2, 2
    cleaned = clean(array, ComponentSettings(keep_largest=True, labels=(2,)))
    assert (cleaned == 1).sum() == 4
    assert (cleaned == 2).sum() == 4


def test_diagonal_neighbours_are_apart() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = array[1, 1, 2] = 1
    assert clean(array, LARGEST).sum() == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_refiner_over_slabs_cleans_what_the_whole_segmentation_would(axis: int) -> None:
    labels = noise((11, 12, 21))
    geometry = Geometry(labels.shape, np.diag([1.0, 2.0, 1.5, 1.0]))
    scores = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 3).movedim(-1, 0) * 4.0
    settings = ComponentSettings(keep_largest=True, min_volume_mm3=9.0, fill_holes=True)

    def slabs() -> Iterator[Slab]:
        for start in range(0, labels.shape[axis], 5):
            yield Slab(scores.narrow(1 + axis, start, min(5, labels.shape[axis] - start)), axis, start)

    refined = list(component_refiner(settings)(slabs(), Volume(labels[None], geometry)))
    assert [s.start for s in refined] == [0, *(s.stop for s in refined[:-1])]
    found = torch.cat([s.probabilities for s in refined], 1 + axis).argmax(0)
    expected = clean_components(Segmentation(labels, geometry), settings).array
    assert (expected != labels).any()
    np.testing.assert_array_equal(found, expected)


def test_planes_that_did_not_come_part_components_and_stay_away() -> None:
    labels = np.ones((4, 4, 10), np.uint8)
    scores = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 2).movedim(-1, 0).float()
    given = (Slab(scores[..., a:b], 2, a) for a, b in ((0, 3), (5, 10)))
    volume = Volume(labels[None], Geometry(labels.shape, np.eye(4)))
    refined = list(component_refiner(LARGEST)(given, volume))
    assert [(s.start, s.stop) for s in refined] == [(0, 3), (5, 10)]
    assert [int(s.scores.argmax(0).sum()) for s in refined] == [0, 80]


def test_no_slabs_give_no_slabs() -> None:
    volume = Volume(np.zeros((1, 2, 2, 2)), Geometry((2, 2, 2), np.eye(4)))
    assert list(component_refiner(LARGEST)(iter(()), volume)) == []


def test_memory_grows_with_the_surface_and_not_with_the_voxels() -> None:
    held = {}
    for size in (32, 128):
        runs = Runs((size, size), 1)
        plane = np.zeros((size, size), np.uint8)
        plane[4:-4, 4:-4] = 1
        runs.add(0, plane)
        held[size] = runs.starts[0].size
    assert held[128] < 5 * held[32]  # of 16 times the voxels
