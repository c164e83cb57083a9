"""The fields of a NIfTI header and what its qform means, as nifti1.h and nifti2.h define them.

nibabel knows the same; loading it, and pydicom with it, would take longer than a small scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Kind:
    """NIfTI-1 or NIfTI-2.

    Attributes:
        size: Bytes of the header, with which it begins.
        dtype: The fields that are read or written, little-endian; the others are zero.
        magic: Of a single file.
        is_full: How far the squares of a quaternion's three stored parts may be from 1 to count as 1.
    """

    size: int
    dtype: np.dtype[Any]
    magic: bytes
    is_full: float


def _kind(size: int, magic: bytes, real: str, fields: dict[str, tuple[int, Any]]) -> Kind:
    names, offsets, formats = list(fields), [at for at, _ in fields.values()], [kind for _, kind in fields.values()]
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
    return Kind(size, dtype, magic, 3 * float(np.finfo(real).eps))


NIFTI1 = _kind(348, b"n+1", "f4", {
    "sizeof_hdr": (0, "<i4"), "dim": (40, ("<i2", 8)), "datatype": (70, "<i2"), "bitpix": (72, "<i2"),
    "pixdim": (76, ("<f4", 8)), "vox_offset": (108, "<f4"), "scl_slope": (112, "<f4"), "scl_inter": (116, "<f4"),
    "xyzt_units": (123, "u1"), "qform_code": (252, "<i2"), "sform_code": (254, "<i2"),
    "quatern": (256, ("<f4", 3)), "qoffset": (268, ("<f4", 3)), "srow": (280, ("<f4", (3, 4))), "magic": (344, "S4"),
})  # fmt: skip
NIFTI2 = _kind(540, b"n+2", "f8", {
    "sizeof_hdr": (0, "<i4"), "magic": (4, "S4"), "eol_check": (8, "S4"), "datatype": (12, "<i2"),
    "bitpix": (14, "<i2"), "dim": (16, ("<i8", 8)), "pixdim": (104, ("<f8", 8)), "vox_offset": (168, "<i8"),
    "scl_slope": (176, "<f8"), "scl_inter": (184, "<f8"), "qform_code": (344, "<i4"), "sform_code": (348, "<i4"),
    "quatern": (352, ("<f8", 3)), "qoffset": (376, ("<f8", 3)), "srow": (400, ("<f8", (3, 4))),
    "xyzt_units": (500, "<i4"),
})  # fmt: skip


class Fields:
    """A header by the names of its fields; `quatern`, `qoffset` and `srow` are b to d, x to z and x to z together.

    Attributes:
        kind: NIfTI-1 or NIfTI-2.
        order: "<" or ">".
    """

    def __init__(self, kind: Kind, block: bytes, order: str) -> None:
        self.kind, self.order = kind, order
        self._record = np.frombuffer(bytearray(block), kind.dtype.newbyteorder(order), count=1)  # type: ignore[arg-type]

    @classmethod
    def empty(cls, kind: Kind) -> Fields:
        """A header, little-endian, of which only the size is filled in."""
        fields = cls(kind, bytes(kind.size), "<")
        fields["sizeof_hdr"] = kind.size
        return fields

    def __getitem__(self, name: str) -> Any:
        return self._record[name][0]

    def __setitem__(self, name: str, value: Any) -> None:
        self._record[name][0] = value

    def __bytes__(self) -> bytes:
        return self._record.tobytes()

    @property
    def sform(self) -> Matrix:
        """The affine of the three rows."""
        return np.vstack((np.asarray(self["srow"], dtype=np.float64), (0, 0, 0, 1)))

    @property
    def qform(self) -> Matrix:
        """The affine of quaternion, offset and spacing; pixdim[0] has to be 1 or -1.

        Raises:
            ValueError: If the quaternion is longer than 1.
        """
        rotation = _rotation(np.asarray(self["quatern"]), self.kind.is_full)
        affine = np.eye(4)
        affine[:3, :3] = rotation * self["pixdim"][1:4]
        affine[:3, 2] *= self["pixdim"][0]
        affine[:3, 3] = self["qoffset"]
        return affine

    def set_qform(self, affine: Matrix) -> None:
        """Store an affine without shear as quaternion, offset and spacing."""
        columns = affine[:3, :3]
        lengths = np.sqrt(np.sum(columns * columns, axis=0))
        axes = columns / lengths
        side = 1 if np.linalg.det(axes) > 0 else -1
        axes[:, 2] *= side
        u, _, v = np.linalg.svd(axes)
        self["pixdim"][:4] = side, *lengths
        self["quatern"] = _quaternion(u @ v)
        self["qoffset"] = affine[:3, 3]


def _rotation(stored: NDArray[np.floating[Any]], is_full: float) -> NDArray[np.longdouble]:
    """The rotation matrix of a unit quaternion of which the parts b, c and d are stored, a being positive."""
    bcd = stored.astype(np.longdouble)
    rest = 1 - bcd @ bcd
    if rest < 0 and abs(rest) >= is_full:
        raise ValueError("the quaternion is longer than 1")
    quaternion = np.array((0 if abs(rest) < is_full else np.sqrt(rest), *bcd), dtype=np.longdouble)
    product = np.outer(quaternion, quaternion * (2 / (quaternion**2).sum()))
    (_, ab, ac, ad), (_, bb, bc, bd), (_, _, cc, cd), (_, _, _, dd) = product
    return np.array(
        [
            [1 - (cc + dd), bc - ad, bd + ac],
            [bc + ad, 1 - (bb + dd), cd - ab],
            [bd - ac, cd + ab, 1 - (bb + cc)],
        ]
    )


def _quaternion(rotation: Matrix) -> Matrix:
    """The parts b, c and d of the unit quaternion of a rotation whose a is positive (Bar-Itzhack, 2000)."""
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = rotation.tolist()
    matrix = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [yz - zy, zx - xz, xy - yx, xx + yy + zz],
        ]
    )
    values, vectors = np.linalg.eigh(matrix / 3)  # which looks at the lower half
    b, c, d, a = vectors[:, np.argmax(values)]
    return np.array((b, c, d)) * (-1 if a < 0 else 1)
