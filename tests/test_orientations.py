"""Orientations against nibabel's own."""

from __future__ import annotations

from itertools import permutations, product

import nibabel.orientations as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.orientations import change, codes_of, orientation_named, orientation_of, turned, unturned

CODES = ["".join(c) for axes in permutations(("RL", "AP", "SI")) for c in product(*axes)]
AFFINES = [
    *(np.diag((*spacing, 1.0)) for spacing in product((-2.0, 0.5), (1.0, -3.0), (4.0, -4.0))),
    *(
        np.block([[rotation * (1, 2, 3), np.ones((3, 1))], [np.zeros(3), 1]])
        for rotation in Rotation.random(200, random_state=1).as_matrix()
    ),
    *(  # half way between two axes
        np.block([[Rotation.from_euler("zyx", angles, degrees=True).as_matrix(), np.zeros((3, 1))], [np.zeros(3), 1]])
        for angles in product((0, 45, 90, 135, 180), repeat=3)
    ),
    np.array([[1, 0.6, 0, 0], [0, 1, 0.9, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
]


@pytest.mark.parametrize("affine", AFFINES, ids=range(len(AFFINES)))
def test_an_affine_has_the_orientation_that_nibabel_finds(affine: np.ndarray) -> None:
    np.testing.assert_array_equal(orientation_of(affine), nib.io_orientation(affine))
    assert codes_of(affine) == "".join(nib.aff2axcodes(affine))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("wanted", ["RAS", "LPI", "SRP", "ALS"])
def test_an_array_is_turned_as_nibabel_turns_it(codes: str, wanted: str) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    by = change(orientation_named(codes), orientation_named(wanted))
    theirs = nib.ornt_transform(nib.axcodes2ornt(tuple(codes)), nib.axcodes2ornt(tuple(wanted)))
    np.testing.assert_array_equal(by, theirs)
    np.testing.assert_array_equal(turned(array, by), nib.apply_orientation(array, theirs))
    np.testing.assert_array_equal(unturned(by, array.shape), nib.inv_ornt_aff(theirs, array.shape))
