"""The fields of a header and the meaning of its qform, against nibabel's."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.formats.nifti_fields import NIFTI1, NIFTI2, Fields, Kind

KINDS = [(NIFTI1, nib.Nifti1Header), (NIFTI2, nib.Nifti2Header)]
TOGETHER = {
    "quatern": ("quatern_b", "quatern_c", "quatern_d"),
    "qoffset": ("qoffset_x", "qoffset_y", "qoffset_z"),
    "srow": ("srow_x", "srow_y", "srow_z"),
}
TURNS = [*Rotation.random(40, random_state=3).as_matrix(), np.diag((1.0, -1, -1)), np.diag((-1.0, -1, 1)), np.eye(3)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "nibabels"), KINDS)
def test_every_field_lies_where_nibabel_has_it(kind: Kind, nibabels: type, order: str) -> None:
    block = np.random.default_rng(0).integers(0, 64, kind.size, dtype=np.uint8).tobytes()
    ours, theirs = Fields(kind, block, order), nibabels(block, endianness=order, check=False)
    for name in kind.dtype.names or ():
        wanted = theirs[name] if name not in TOGETHER else np.stack([theirs[part] for part in TOGETHER[name]])
        if name == "eol_check":
            wanted = wanted.tobytes()
        np.testing.assert_array_equal(ours[name], wanted, err_msg=name)
    assert bytes(ours) == block
    np.testing.assert_array_equal(ours.sform, theirs.get_sform())


@pytest.mark.parametrize("turn", TURNS, ids=range(len(TURNS)))
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("kind", "nibabels"), KINDS)
def test_a_qform_is_stored_and_read_as_nibabel_does_it(kind: Kind, nibabels: type, side: int, turn: np.ndarray) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (1.2, 0.7, 3.3 * side), (10, -20, 30.5)
    ours, theirs = Fields.empty(kind), nibabels()
    ours.set_qform(affine)
    theirs.set_qform(affine, code=1)
    np.testing.assert_array_equal(ours["pixdim"][:4], theirs["pixdim"][:4])
    np.testing.assert_array_equal(ours["quatern"], [theirs[name] for name in TOGETHER["quatern"]])
    np.testing.assert_array_equal(ours.qform, theirs.get_qform())


@pytest.mark.parametrize("kind", [NIFTI1, NIFTI2])
def test_a_quaternion_longer_than_1_is_an_error(kind: Kind) -> None:
    fields = Fields.empty(kind)
    fields["pixdim"][:4] = 1
    fields["quatern"] = (0.8, 0.8, 0)
    with pytest.raises(ValueError, match="longer than 1"):
        _ = fields.qform
