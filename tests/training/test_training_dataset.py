"""Random patches: where they lie, what they keep, and on what their chance depends."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import TrainConfig, validate
from medseg.errors import ConfigError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.training.augmentation import IMAGE, LABEL
from medseg.training.cases import find_cases
from medseg.training.dataset import EpochSampler, PatchDataset, PreparedCase, load_cases
from medseg.volume import Segmentation, Volume
from tests.phantoms import ball
from tests.training.conftest import settings

STILL = {"spatial_probability": 0, "intensity_probability": 0}
MOVED = {"intensity_probability": 0, "flip_axes": [0, 1, 2], "spatial_probability": 1, "rotation_deg": 30}


def config_with(windows: dict[str, Any], **training: Any) -> TrainConfig:
    content = settings("nowhere")
    content["windows"] = windows
    content["training"] |= training
    content["network"]["spatial_dims"] = 2 if 1 in windows["size"] else 3
    return validate(content, TrainConfig, where="test")


def numbered_case(shape: tuple[int, int, int], *labelled: tuple[int, int, int]) -> PreparedCase:
    """A case whose voxels bear their own number from 1 on, with label 2 at some voxels."""
    geometry = Geometry(shape, np.eye(4))
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    labels = np.zeros(shape, dtype=np.uint8)
    for voxel in labelled:
        labels[voxel] = 2
    reference = Segmentation(labels, geometry, LabelSet.from_names({1: "a", 2: "b"}))
    centres = (np.array(labelled),) if labelled else ()
    return PreparedCase("numbered", Volume(array[None], geometry), reference, centres)


def test_patch_without_changes_is_a_piece_of_the_volume():
    case = numbered_case((9, 8, 7), (4, 4, 4))
    config = config_with({"size": [4, 4, 4]}, patch=[4, 4, 4], augmentation=STILL, foreground_share=0)
    patches = PatchDataset([case], config)
    firsts = set()
    for epoch in range(40):
        image = patches[epoch, 0][IMAGE][0].numpy()
        i, j, k = np.unravel_index(int(image[0, 0, 0]) - 1, (9, 8, 7))
        np.testing.assert_array_equal(image, case.image.array[0, i : i + 4, j : j + 4, k : k + 4])
        firsts.add((i, j, k))
    assert len(firsts) > 20


def test_patch_larger_than_the_volume_is_padded_as_prediction_pads_it():
    case = numbered_case((3, 4, 4), (0, 0, 0))
    config = config_with({"size": [6, 4, 4], "padding_value": -5}, patch=[6, 4, 4], augmentation=STILL)
    image = PatchDataset([case], config)[0, 0][IMAGE][0].numpy()
    np.testing.assert_array_equal(image[1:4], case.image.array[0])
    assert (image[[0, 4, 5]] == -5).all()


def test_foreground_patches_hold_a_labelled_voxel_and_label_numbers_become_channels():
    case = numbered_case((30, 30, 30), (29, 0, 15))
    config = config_with({"size": [4, 4, 4]}, patch=[4, 4, 4], augmentation=STILL, foreground_share=1)
    content = settings("nowhere")
    content["labels"] = {"labels": [{"index": 2, "name": "b"}]}
    sparse = config.model_copy(update={"labels": validate(content, TrainConfig, where="test").labels})
    for epoch in range(10):
        assert PatchDataset([case], config)[epoch, 0][LABEL].max() == 2
        assert PatchDataset([case], sparse)[epoch, 0][LABEL].max() == 1


@pytest.mark.parametrize("thin_axis", [None, 0, 1, 2])
def test_image_and_label_move_together(decathlon: Path, thin_axis):
    size = [1 if axis == thin_axis else 10 for axis in range(3)]
    config = config_with({"size": size}, patch=size, augmentation=MOVED, foreground_share=1)
    content = config.model_dump() | {"preparation": {"intensity": {"kind": "window", "low": 0, "high": 4}}}
    config = validate(content, TrainConfig, where="test")
    patches = PatchDataset(load_cases(find_cases(decathlon), config), config)
    for epoch in range(5):
        patch = patches[epoch, epoch]
        image, label = patch[IMAGE][0], patch[LABEL][0]
        assert image.shape == label.shape == tuple(n for n in size if n > 1)
        drawn = torch.bucketize(image, torch.tensor([0.25, 0.75]))  # brightness is half the label, and noise
        assert (drawn == label).float().mean() > 0.85


def test_mirrored_patches_have_left_and_right_in_each_others_place():
    case = numbered_case((8, 6, 6), (6, 2, 3))
    case.reference.array[1, 2, 3] = 1
    config = config_with({"size": [8, 6, 6]}, patch=[8, 6, 6], augmentation=STILL | {"sides": [[1, 2]]})
    patches = PatchDataset([case], config)
    mirrored = 0
    for epoch in range(20):
        image, label = (patches[epoch, 0][key][0].numpy() for key in (IMAGE, LABEL))
        assert (label[1, 2, 3], label[6, 2, 3]) == (1, 2)  # the mirror swaps both the places and the names
        is_mirrored = image[0, 0, 0] != 1
        np.testing.assert_array_equal(image[::-1] if is_mirrored else image, case.image.array[0])
        mirrored += is_mirrored
    assert 0 < mirrored < 20


@pytest.mark.parametrize(
    ("content", "says"), [({"sides": [[1, 3]]}, "names 3"), ({"sides": [[1, 2]]}, "between right and left")]
)
def test_sides_that_are_no_labels_or_lie_across_no_axis_are_refused(content, says):
    run = settings("nowhere")
    run["training"]["augmentation"] = content
    run["preparation"] = {"orientation": "SRA"}
    with pytest.raises(ConfigError, match=says):
        validate(run, TrainConfig, where="test")


@pytest.mark.parametrize(("swaps", "is_right"), [([], False), ([[1, 1]], False), ([[2, 1]], True)])
def test_mirrored_passes_have_to_swap_the_sides_that_training_swaps(swaps, is_right):
    run = settings("nowhere")
    run["training"]["augmentation"] = {"sides": [[1, 2]]}
    run["windows"] |= {"mirror_axes": [0], "mirror_swaps": swaps}
    with nullcontext() if is_right else pytest.raises(ConfigError, match=r"mirror_swaps has to be \[\[1, 2\]\]"):
        validate(run, TrainConfig, where="test")


def test_neighbour_slices_are_the_channels_of_a_slice_in_order():
    case = numbered_case((4, 6, 4))
    config = config_with({"size": [4, 1, 4], "context": 1}, patch=[4, 1, 4], augmentation=STILL, foreground_share=0)
    patches = PatchDataset([case], config)
    slices = set()
    for epoch in range(30):
        image = patches[epoch, 0][IMAGE].numpy()
        middle = np.unravel_index(int(image[1, 0, 0]) - 1, (4, 6, 4))[1]
        below, above = max(middle - 1, 0), min(middle + 1, 5)  # at the ends the last slice repeats
        np.testing.assert_array_equal(image, case.image.array[0][:, [below, middle, above]].transpose(1, 0, 2))
        slices.add(middle)
    assert slices == set(range(6))


def test_patch_depends_on_seed_epoch_and_index_alone(decathlon: Path):
    config = config_with({"size": [8, 8, 8]}, patch=[8, 8, 8], augmentation={"intensity_probability": 1})
    cases = load_cases(find_cases(decathlon), config)
    one, other = PatchDataset(cases, config), PatchDataset(cases, config)
    expected = one[3, 2]
    for key in [(0, 0), (3, 5), (1, 2)]:  # what was drawn before must not matter
        other[key]
    assert torch.equal(other[3, 2][IMAGE], expected[IMAGE])
    assert torch.equal(other[3, 2][LABEL], expected[LABEL])
    assert not torch.equal(other[4, 2][IMAGE], expected[IMAGE])
    training = config.training.model_copy(update={"seed": 1})
    reseeded = PatchDataset(cases, config.model_copy(update={"training": training}))
    assert not torch.equal(reseeded[3, 2][IMAGE], expected[IMAGE])


def test_every_epoch_visits_every_index_once_in_its_own_order():
    sampler = EpochSampler(50, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == [(0, n) for n in range(50)]
    assert sorted(second) == [(1, n) for n in range(50)]
    assert [index for _, index in first] != [index for _, index in second]


def test_zoom_makes_a_ball_larger_and_smaller_and_leaves_it_round():
    geometry = Geometry((32, 32, 32), np.eye(4))
    labels = 2 * ball(geometry, (16, 16, 16), 8).astype(np.uint8)
    reference = Segmentation(labels, geometry, LabelSet.from_names({1: "a", 2: "b"}))
    case = PreparedCase("ball", Volume(labels[None].astype(np.float32), geometry), reference, (np.array([[16] * 3]),))
    still = {"intensity_probability": 0, "rotation_deg": 0, "scaling": 0, "translation_voxels": 0}
    changes = still | {"spatial_probability": 1, "zoom": 0.5}
    config = config_with({"size": [32] * 3}, patch=[32] * 3, augmentation=changes, foreground_share=1)
    patches = PatchDataset([case], config)
    lengths = []
    for epoch in range(20):
        found = np.argwhere(patches[epoch, 0][LABEL][0].numpy() == 2)
        extents = found.max(axis=0) - found.min(axis=0)
        assert np.ptp(extents) <= 1
        lengths.append(int(extents[0]))
    assert 16 / 1.5 - 2 <= min(lengths) < 14
    assert 18 < max(lengths) <= 16 * 1.5 + 2


def test_patches_may_hang_over_the_scan_s_border_by_their_share():
    case = numbered_case((9, 9, 9), (4, 4, 4))
    changes = {"patch": [6, 6, 6], "augmentation": STILL, "foreground_share": 0, "overhang": 0.5}
    patches = PatchDataset([case], config_with({"size": [6, 6, 6], "padding_value": -5}, **changes))
    beyond = [int((patches[epoch, 0][IMAGE][0] == -5).all(2).all(1).sum()) for epoch in range(60)]
    assert set(beyond) == {0, 1, 2, 3}
