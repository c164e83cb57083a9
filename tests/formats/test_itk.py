from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medseg.errors import MedsegError
from medseg.formats import read, read_segmentation, scan

VOXELS = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)  # (K, J, I)


def image(voxels: np.ndarray = VOXELS) -> SimpleITK.Image:
    made = SimpleITK.GetImageFromArray(voxels)
    made.SetSpacing((0.5, 0.75, 3.0))
    made.SetOrigin((-20.0, 31.0, 7.0))
    made.SetDirection((0.8, 0.6, 0, 0, 0, -1, -0.6, 0.8, 0))
    return made


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_voxels_lie_where_itk_has_them(ending: str, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / f"scan{ending}"
    SimpleITK.WriteImage(image(), str(path), useCompression=compressed)
    volume = read(path)
    assert (volume.array.dtype, volume.findings) == (np.dtype(np.int16), ())
    np.testing.assert_array_equal(volume.array[0], VOXELS.transpose(2, 1, 0))
    for index in ((0, 0, 0), (5, 4, 3), (2, 0, 1)):
        lps = image().TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.geometry.to_world(index), np.multiply(lps, (-1, -1, 1)), atol=1e-5)
    (series,) = scan(path).series
    assert series.shape == volume.geometry.shape


def test_labels_are_read(tmp_path: Path) -> None:
    SimpleITK.WriteImage(image((VOXELS > 0).astype(np.uint8)), str(tmp_path / "seg.nrrd"))
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.nrrd").array, (VOXELS > 0).transpose(2, 1, 0))


def test_shared_files_are_what_itk_reads(shared_data: Path) -> None:
    paths = sorted((shared_data / "fixtures").rglob("*.nrrd")) + sorted((shared_data / "fixtures").rglob("*.mha"))
    assert len(paths) > 10
    for path in paths[::3]:
        itk, volume = SimpleITK.ReadImage(str(path)), read(path)
        array = SimpleITK.GetArrayFromImage(itk).reshape(volume.geometry.shape[::-1])
        np.testing.assert_array_equal(volume.array[0], array.transpose(2, 1, 0))


NRRD = {
    "type": "short", "dimension": "3", "sizes": "6 5 4", "space": "left-posterior-superior",
    "space directions": "(1,0,0) (0,1,0) (0,0,2)", "space origin": "(0,0,0)", "encoding": "raw", "endian": "little",
}  # fmt: skip
META = {
    "ObjectType": "Image", "NDims": "3", "DimSize": "6 5 4", "ElementType": "MET_SHORT", "ElementSpacing": "1 1 2",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementDataFile": "LOCAL",
}  # fmt: skip


def nrrd(**changes: str | None) -> bytes:
    fields = NRRD | {key.replace("_", " "): value for key, value in changes.items()}
    return (
        b"NRRD0004\n"
        + "".join(f"{key}: {value}\n" for key, value in fields.items() if value).encode()
        + b"\n"
        + VOXELS.tobytes()
    )


def meta(**changes: str | None) -> bytes:
    fields = {key: value for key, value in (META | changes).items() if value and key != "ElementDataFile"}
    fields["ElementDataFile"] = changes.get("ElementDataFile") or "LOCAL"
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode() + VOXELS.tobytes()


BAD = {
    "huge": (nrrd(sizes="99999999 99999999 99999999"), "cut short"),
    "too large by one": (nrrd(sizes="6 5 5"), "cut short"),
    "zero": (nrrd(sizes="6 0 4"), "empty image"),
    "five axes": (nrrd(dimension="5", sizes="6 5 4 1 1"), "of 5 dimensions"),
    "colours": (nrrd(kinds="RGB-color domain domain"), "several for each voxel"),
    "axes disagree": (nrrd(dimension="4"), "disagree"),
    "no spacing": (nrrd(space_directions=None, space_origin=None, space=None), "no spacing"),
    "singular": (nrrd(space_directions="(1,0,0) (1,0,0) (0,0,1)"), "do not span space"),
    "not finite": (nrrd(space_directions="(nan,0,0) (0,1,0) (0,0,1)"), "not finite"),
    "bzip2": (nrrd(encoding="bzip2"), "encoded as bzip2"),
    "elsewhere": (nrrd(data_file="/etc/passwd"), "not beside it"),
    "above": (nrrd(data_file="../other.raw"), "not beside it"),
    "twice": (nrrd(sizes="6 5 4\nsizes: 9 9 9"), "twice"),
    "block": (nrrd(type="block"), "type of voxels is not read"),
    "meta huge": (meta(DimSize="99999 99999 99999"), "cut short"),
    "meta negative": (meta(DimSize="6 -5 4"), "no list of sizes"),
    "meta five axes": (meta(NDims="5", DimSize="6 5 4 1 1"), "of 5 dimensions"),
    "meta axes disagree": (meta(NDims="16"), "disagree"),
    "meta channels": (meta(ElementNumberOfChannels="3"), "several for each voxel"),
    "meta singular": (meta(TransformMatrix="1 0 0 1 0 0 0 0 1"), "do not span space"),
    "meta matrix": (meta(TransformMatrix="1 0 0"), "not as many"),
    "meta elsewhere": (meta(ElementDataFile="/etc/passwd"), "not beside it"),
    "meta list": (meta(ElementDataFile="LIST"), "several files"),
    "meta type": (meta(ElementType="MET_NONE"), "type of voxels"),
}


@pytest.mark.parametrize("case", BAD)
def test_hostile_header_is_refused_before_itk_sees_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = BAD[case]
    path = tmp_path / ("scan.mha" if case.startswith("meta") else "scan.nrrd")
    path.write_bytes(content)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("ITK was called")

    monkeypatch.setattr("medseg.formats.itk._reader", forbidden)
    with pytest.raises(MedsegError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_plain_headers_of_these_tests_are_sound(tmp_path: Path) -> None:
    for name, content in (("scan.nrrd", nrrd()), ("scan.mha", meta())):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read(tmp_path / name).array[0], VOXELS.transpose(2, 1, 0))
