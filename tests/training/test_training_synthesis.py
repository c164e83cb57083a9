"""Images from label maps: what is random, what must not be."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.config import TrainConfig, validate
from medseg.errors import ConfigError, InputError
from medseg.training.augmentation import IMAGE, LABEL
from medseg.training.cases import find_cases
from medseg.training.label_maps import SynthesisDataset, patch_spacing, read_map, scan_of
from medseg.training.material import gather
from medseg.training.synthesis import Place, deform, mirrored, synthesise
from medseg.training_settings import Synthesis
from tests.phantoms import affine_of, axis_arrangements
from tests.training.conftest import settings, write_nifti

STILL = Synthesis(rotation_deg=0, scaling=0, deformation_mm=0)
CLEAR = Synthesis(bias_field=0, gamma=0, noise_sd=0, blur_mm=0, slice_share=0, tissue_share=0, stripped_share=0)


def config_with(root: Path, **synthesis: object) -> TrainConfig:
    content = settings(root)
    content["preparation"] = {"spacing_mm": [1.0, 1.0, 1.0], "intensity": {"kind": "percentiles"}}
    content["training"] |= {"patch": [12, 12, 12], "synthesis": {"sides": [[1, 2]], **synthesis}}
    return validate(content, TrainConfig, where="test")


@pytest.fixture
def config(decathlon: Path) -> TrainConfig:
    return config_with(decathlon / "labelsTr")


@pytest.fixture
def head() -> np.ndarray:
    structures = np.zeros((20, 18, 16), dtype=np.uint8)
    structures[3:9, 4:14, 5:12] = 1
    structures[10:17, 6:12, 3:13] = 2
    return structures


def test_map_that_is_not_moved_stays_as_it_is(head):
    place = Place(head.shape, (1, 1, 1), (np.array(head.shape) - 1) / 2)
    np.testing.assert_array_equal(deform(head, (1, 1, 1), place, STILL, np.random.default_rng(0)), head)


def test_piece_lies_where_its_centre_and_spacing_say_and_is_empty_beyond_the_map(head):
    place = Place((5, 5, 5), (2, 2, 2), np.array([19.0, 8, 7]))
    piece = deform(head, (1, 1, 1), place, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(piece[:3], head[15:20:2, 4:13:2, 3:12:2])
    assert not piece[3:].any()


def test_turned_and_bent_map_keeps_about_its_volumes(head):
    place = Place((40, 40, 40), (1, 1, 1), (np.array(head.shape) - 1) / 2)
    moved = Synthesis(rotation_deg=30, scaling=0, deformation_mm=0.5, control_mm=10)
    for seed in range(5):
        piece = deform(head, (1, 1, 1), place, moved, np.random.default_rng(seed))
        assert not np.array_equal(piece[10:30, 11:29, 12:28], head)
        np.testing.assert_allclose(np.bincount(piece.ravel())[1:], np.bincount(head.ravel())[1:], rtol=0.25)


def test_mirror_swaps_the_sides_and_nothing_else(head):
    values = (0, 4, 43)
    seen = mirrored(head, values, [(4, 43), (5, 44)])
    np.testing.assert_array_equal(seen == 2, (head == 1)[::-1])
    np.testing.assert_array_equal(seen == 1, (head == 2)[::-1])
    np.testing.assert_array_equal(mirrored(seen, values, [(4, 43)]), head)


def test_left_and_right_look_alike_and_other_structures_do_not(head):
    paired = CLEAR.model_copy(update={"sides": ((4, 43),)})
    alike, apart = [], []
    for seed in range(20):
        images = [synthesise(head, (0, 4, 43), (1, 1, 1), s, np.random.default_rng(seed)) for s in (paired, CLEAR)]
        means = [[float(image[head == n].mean()) for n in (1, 2)] for image in images]
        alike.append(abs(means[0][0] - means[0][1]))
        apart.append(abs(means[1][0] - means[1][1]))
    assert max(alike) < 0.05
    assert np.median(apart) > 0.1


def test_structures_of_a_tissue_look_more_alike_than_others(head):
    tissue = CLEAR.model_copy(update={"tissues": ((4, 43),), "tissue_share": 1.0})
    spread = [
        [
            np.ptp(
                [
                    synthesise(head, (0, 4, 43), (1, 1, 1), one, np.random.default_rng(n))[head == s].mean()
                    for s in (1, 2)
                ]
            )
            for n in range(30)
        ]
        for one in (tissue, CLEAR)
    ]
    assert np.median(spread[0]) < 0.5 * np.median(spread[1])


def test_stripped_head_is_as_dark_as_the_air_around_it(head):
    stripped = CLEAR.model_copy(update={"surroundings": (43,), "stripped_share": 1.0})
    for seed in range(10):
        image = synthesise(head, (0, 4, 43), (1, 1, 1), stripped, np.random.default_rng(seed))
        assert abs(image[head == 2].mean() - image[head == 0].mean()) < 0.02


def test_thick_slices_blur_along_one_axis_alone(head):
    thick = CLEAR.model_copy(update={"slice_share": 1.0, "slice_mm": 8.0})
    ratios = []
    for seed in range(12):
        image = synthesise(np.zeros((32, 32, 32), np.uint8), (0,), (1, 1, 1), thick, np.random.default_rng(seed))
        rough = sorted(float(np.abs(np.diff(image, axis=axis)).mean()) for axis in range(3))
        ratios.append(rough[0] / rough[1])
    assert np.median(ratios) < 0.5


def test_synthetic_patch_depends_on_seed_epoch_and_index_alone(config, decathlon):
    maps = [read_map(case, config) for case in find_cases(decathlon / "labelsTr")]
    patches = SynthesisDataset(maps, config)
    first = patches[3, 1]
    patches[0, 2]
    again = SynthesisDataset(maps, config)[3, 1]
    np.testing.assert_array_equal(first[IMAGE], again[IMAGE])
    np.testing.assert_array_equal(first[LABEL], again[LABEL])
    assert first[IMAGE].shape == first[LABEL].shape == (1, 12, 12, 12)
    assert not np.array_equal(first[IMAGE], patches[4, 1][IMAGE])
    assert set(np.unique(first[LABEL])) <= {0, 1, 2}


def test_map_in_any_arrangement_of_its_axes_is_read_the_same(config, decathlon, tmp_path):
    case = find_cases(decathlon / "labelsTr")[0]
    expected = read_map(case, config)
    labels = np.asarray(nib.load(case.label).dataobj)
    for number, (order, signs) in enumerate(axis_arrangements()[::7]):
        turned = labels.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
            affine[source, axis] = sign
            affine[source, 3] = 0 if sign > 0 else labels.shape[source] - 1
        write_nifti(tmp_path / f"turned/{number}.nii.gz", turned, affine)
    for case in find_cases(tmp_path / "turned"):
        found = read_map(case, config)
        np.testing.assert_array_equal(found.structures, expected.structures)
        np.testing.assert_allclose(found.geometry.affine, expected.geometry.affine, atol=1e-6)


def test_held_out_scan_is_the_same_whenever_it_is_asked_for_and_its_labels_fit(config, decathlon):
    chosen = read_map(find_cases(decathlon / "labelsTr")[0], config)
    volume, labels = scan_of(chosen, config, 1)
    again, _ = scan_of(chosen, config, 1)
    other, _ = scan_of(chosen, config, 2)
    np.testing.assert_array_equal(volume.array, again.array)
    assert not np.array_equal(volume.array, other.array)
    assert labels.geometry.matches(volume.geometry)
    assert set(np.unique(labels.array)) == {0, 1, 2}
    # It lies around the place of the map itself.
    inside = volume.geometry.to_world((np.array(volume.geometry.shape) - 1) / 2)
    np.testing.assert_allclose(inside, chosen.geometry.to_world((np.array(chosen.geometry.shape) - 1) / 2), atol=1e-6)


def test_value_that_stands_for_nothing_and_missing_spacing_are_refused(config, decathlon, tmp_path):
    write_nifti(
        tmp_path / "maps/odd.nii.gz", np.full((8, 8, 8), 7, np.uint8) * (np.arange(8) > 3), affine_of((1, 1, 1))
    )
    with pytest.raises(InputError, match=r"Case odd: .* holds the value 7, which stands for no label"):
        read_map(find_cases(tmp_path / "maps")[0], config)
    loose = config.model_copy(
        update={"preparation": config.preparation.model_copy(update={"spacing_mm": (1, 1, None)})}
    )
    with pytest.raises(ConfigError, match=r"spacing_mm along every axis"):
        patch_spacing(loose)


def test_label_maps_without_synthesis_are_refused(config, decathlon):
    plain = config.model_copy(update={"training": config.training.model_copy(update={"synthesis": None})})
    cases = find_cases(decathlon / "labelsTr")
    with pytest.raises(ConfigError, match="a label map without an image"):
        gather(cases[1:], cases[:1], plain, progress=False)
