"""NRRD and MetaImage headers, read and bounded before ITK sees the file: a hostile one can abort its process."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.formats.base import by, shown
from medseg.geometry import Shape

_MOST_HEADER_BYTES = 2**20
_DEFLATE_RATIO = 1032  # deflate cannot inflate more than this; what bzip2 can is more, and is not read
_META_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_NRRD_TYPES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort", "unsigned short",
        "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip
_SPACES = {"left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"}
_PLAIN_KINDS = {"domain", "space", "none", "???"}


@dataclass(frozen=True)
class ItkHeader:
    """What a header says, as far as it is checked; the grid itself comes from ITK.

    Attributes:
        reader: ITK's name for what reads it.
        shape: Voxels along (I, J, K).
        has_space: Whether it says how the grid lies in the patient.
        fields: The fields of the header, by lower-case name.
    """

    reader: str
    shape: Shape
    has_space: bool
    fields: dict[str, str]


def looks_like_nrrd(head: bytes) -> bool:
    """Whether the first bytes are NRRD's."""
    return head.startswith(b"NRRD000")


def looks_like_metaimage(head: bytes) -> bool:
    """Whether the first bytes are a MetaImage header: its first fields in any order."""
    return re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", head) is not None


def parse_header(path: Path) -> ItkHeader:
    """Read and check a header.

    Raises:
        InputError: If it is damaged, of a kind that is not read, or promises more voxels than its file can hold.
        GeometryError: If it does not tell where the voxels lie.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the file.") from None
    if looks_like_nrrd(content):
        return _nrrd(content, path)
    if looks_like_metaimage(content):
        return _metaimage(content, path)
    raise InputError(f"{shown(path)}: neither NRRD nor MetaImage, whatever its name says; give another file.")


def _nrrd(content: bytes, path: Path) -> ItkHeader:
    end = re.search(rb"\r?\n\r?\n", content)
    lines = content[: end.start() if end else len(content)].decode("latin-1").splitlines()[1:]
    fields: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#"):
            key = name.strip().lower()
            if key in fields and not value.startswith("="):
                raise _damaged(path, f"it says {shown(key)} twice")
            fields[key] = value.removeprefix("=").strip()
    sizes = _integers(fields, "sizes", path)
    if sizes and len(sizes) != _integer(fields, "dimension", path):
        raise _damaged(path, "dimension and sizes disagree")
    kinds = fields.get("kinds", "").lower().split()
    if len(sizes) not in (2, 3) or any(kind not in _PLAIN_KINDS for kind in kinds):
        raise InputError(f"{shown(path)}: {_no_volume(sizes)}; give one volume of single values.")
    size = next((size for size, names in _NRRD_TYPES.items() if fields.get("type", "").lower() in names), 0)
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(
            f"{shown(path)}: encoded as {shown(encoding[:20])}, which is not read; save it raw or as gzip."
        )
    ratio = 1 if encoding == "raw" else _DEFLATE_RATIO
    data = fields.get("data file", fields.get("datafile", ""))
    if not data and end is None:
        raise _damaged(path, "it does not end")
    _check_room(_beside(path, data), sizes, size, ratio, path, header_bytes=end.end() if end else 0)
    space = fields.get("space", "").lower()
    directions = _vectors(fields.get("space directions", ""), path)
    spacings = _numbers(fields.get("spacings", ""), path)
    _check_axes(directions or list(np.diag(spacings)), len(sizes), path)
    return ItkHeader("NrrdImageIO", _shape(sizes), space in _SPACES and bool(directions), fields)


def _metaimage(content: bytes, path: Path) -> ItkHeader:
    fields: dict[str, str] = {}
    header_bytes = 0
    for line in content.split(b"\n"):
        header_bytes += len(line) + 1
        name, separator, value = line.decode("latin-1").partition("=")
        if not separator:
            raise _damaged(path, "a line without =")
        key = name.strip().lower()
        if key in fields:
            raise _damaged(path, f"it says {shown(key)} twice")
        fields[key] = value.strip()
        if key == "elementdatafile":
            break
    else:
        raise _damaged(path, "it names no data")
    sizes = _integers(fields, "dimsize", path)
    if len(sizes) != _integer(fields, "ndims", path):
        raise _damaged(path, "NDims and DimSize disagree")
    if len(sizes) not in (2, 3) or fields.get("elementnumberofchannels", "1") != "1":
        raise InputError(f"{shown(path)}: {_no_volume(sizes)}; give one volume of single values.")
    data = fields["elementdatafile"]
    if fields.get("binarydata", "true").lower() == "false" or data.upper() == "LIST" or "%" in data:
        raise InputError(f"{shown(path)}: its voxels are text or lie in several files; save it as one .mha.")
    ratio = _DEFLATE_RATIO if fields.get("compresseddata", "false").lower() == "true" else 1
    size = _META_TYPES.get(fields.get("elementtype", ""), 0)
    voxels = path if data == "LOCAL" else _beside(path, data)
    _check_room(voxels, sizes, size, ratio, path, header_bytes=header_bytes)
    matrix = next((fields[key] for key in ("transformmatrix", "rotation", "orientation") if key in fields), "")
    count = len(sizes)
    spacing = _numbers(fields.get("elementspacing", fields.get("elementsize", "")), path) or [1.0] * count
    values = _numbers(matrix, path) or list(np.eye(count).ravel())
    if len(values) != count**2 or len(spacing) != count:
        raise _damaged(path, "its directions or spacings are not as many as its axes")
    _check_axes(
        [row * step for row, step in zip(np.reshape(values, (count, count)), spacing, strict=True)], count, path
    )
    offset = next((fields[key] for key in ("offset", "position", "origin") if key in fields), "")
    if len(_numbers(offset, path)) not in (0, count):
        raise _damaged(path, "its offset has not as many values as it has axes")
    return ItkHeader("MetaImageIO", _shape(sizes), bool(matrix), fields)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{shown(path)}: the header is damaged, {what}; copy or convert the file again.")


def _no_volume(sizes: list[int]) -> str:
    return f"an image of {by(sizes)} values, several for each voxel or of {len(sizes)} dimensions"


def _shape(sizes: list[int]) -> Shape:
    return sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1


def _integers(fields: dict[str, str], name: str, path: Path) -> list[int]:
    words = fields.get(name, "").split()
    if not words or len(words) > 16 or any(re.fullmatch(r"\d{1,9}", word) is None for word in words):
        raise _damaged(path, f"{name} is no list of sizes")
    sizes = [int(word) for word in words]
    if min(sizes) == 0:
        raise InputError(f"{shown(path)}: an empty image of {by(sizes)} voxels; check how it was exported.")
    return sizes


def _integer(fields: dict[str, str], name: str, path: Path) -> int:
    return _integers(fields, name, path)[0]


def _numbers(text: str, path: Path) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise _damaged(path, "where numbers should be are none") from None
    if not np.isfinite(values).all():
        raise GeometryError(f"{shown(path)}: spacing, origin or directions are not finite; correct the header.")
    return values


def _vectors(text: str, path: Path) -> list[np.ndarray]:
    return [np.array(_numbers(vector.replace(",", " "), path)) for vector in re.findall(r"\(([^()]*)\)", text)]


def _check_axes(axes: list[np.ndarray], count: int, path: Path) -> None:
    if not axes:
        raise GeometryError(
            f"{shown(path)}: has no spacing, so nobody knows how large its voxels are; correct the header."
        )
    if len(axes) != count or any(len(axis) != len(axes[0]) or len(axis) < count for axis in axes):
        raise _damaged(path, "its directions or spacings are not as many as its axes")
    lengths = [float(np.linalg.norm(axis)) for axis in axes]
    unit = np.array([axis / length for axis, length in zip(axes, lengths, strict=True) if length > 1e-6])
    if len(unit) < count or math.sqrt(max(float(np.linalg.det(unit @ unit.T)), 0.0)) < 1e-3:
        raise GeometryError(f"{shown(path)}: its axes do not span space; correct the header.")


def _beside(path: Path, name: str) -> Path:
    """The file of the voxels, which must lie in the same folder."""
    if not name:
        return path
    if Path(name).name != name or "\\" in name or not (path.parent / name).is_file() or name.upper().startswith("LIST"):
        raise InputError(f"{shown(path)}: its voxels are in a file that is not beside it; copy both, or save one file.")
    return path.parent / name


def _check_room(voxels: Path, sizes: list[int], size: int, ratio: int, path: Path, *, header_bytes: int) -> None:
    if not size:
        raise InputError(f"{shown(path)}: its type of voxels is not read; save plain integers or floats.")
    needed, there = math.prod(sizes) * size, voxels.stat().st_size - (header_bytes if voxels == path else 0)
    if needed > there * ratio:
        text = f"the data are cut short: {by(sizes)} voxels need {needed} bytes, the file has {there}"
        raise InputError(f"{shown(path)}: {text}; copy or download it again.")
