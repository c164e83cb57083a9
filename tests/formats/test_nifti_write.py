from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.formats import read_segmentation, write
from medseg.geometry import Geometry
from medseg.labels import Code, Label, LabelSet
from medseg.volume import Segmentation

SHAPE = (4, 5, 3)
SPACING_MM = (0.7, 1.2, 3.5)
LABELS = LabelSet(labels=(Label(index=1, name="Anterior"), Label(index=2, name="Posterior")))


def oriented(permutation: tuple[int, ...], signs: tuple[int, ...], rotation: Rotation | None = None) -> Geometry:
    """A grid whose index axes run along these world axes in these directions."""
    affine = np.eye(4)
    axes = np.eye(3)[:, permutation] * signs * SPACING_MM
    affine[:3, :3] = axes if rotation is None else rotation.as_matrix() @ axes
    affine[:3, 3] = (-31.5, 12.25, 700.0)
    return Geometry(SHAPE, affine)


ORIENTATIONS = [
    oriented(permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = [
    oriented((0, 1, 2), (1, 1, 1), Rotation.from_euler("zyx", (20, -35, 10), degrees=True)),
    oriented((2, 0, 1), (-1, 1, -1), Rotation.from_euler("zyx", (7, 3, 50), degrees=True)),
]


def numbered(geometry: Geometry, labels: LabelSet | None = LABELS) -> Segmentation:
    """A different label in every voxel, so that a voxel found elsewhere is noticed."""
    return Segmentation(np.arange(np.prod(geometry.shape), dtype=np.int64).reshape(geometry.shape), geometry, labels)


def assert_same_in_world(written: Segmentation, array: np.ndarray, affine: np.ndarray) -> None:
    """Each of the written voxels is in the read array, at the same world position."""
    indices = np.argwhere(np.ones(written.geometry.shape, dtype=bool))
    world = written.geometry.to_world(indices)
    found = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    np.testing.assert_allclose(found, np.rint(found), atol=1e-3)
    found = np.rint(found).astype(int)
    np.testing.assert_array_equal(array[tuple(found.T)], written.array[tuple(indices.T)])


def affine_of_sitk(image: SimpleITK.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag((-1, -1, 1, 1)) @ affine  # ITK speaks LPS


@pytest.mark.parametrize("geometry", ORIENTATIONS + OBLIQUE, ids=lambda g: g.orientation)
def test_every_voxel_keeps_its_world_position_for_us_nibabel_and_simpleitk(geometry: Geometry, tmp_path: Path) -> None:
    segmentation = numbered(geometry)
    path = tmp_path / "seg.nii.gz"
    write(segmentation, path)
    ours = read_segmentation(path)
    assert ours.geometry.matches(geometry, tolerance=1e-4)
    np.testing.assert_array_equal(ours.array, segmentation.array)
    image = nib.load(path)
    assert_same_in_world(segmentation, np.asarray(image.dataobj), image.affine)
    assert_same_in_world(segmentation, np.asarray(image.dataobj), image.header.get_qform())
    itk = SimpleITK.ReadImage(str(path))
    assert_same_in_world(segmentation, SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0), affine_of_sitk(itk))


@settings(max_examples=50, deadline=None)
@given(
    angles=arrays(np.float64, 3, elements=st.floats(-180, 180)),
    spacing=arrays(np.float64, 3, elements=st.floats(0.05, 20)),
    origin=arrays(np.float64, 3, elements=st.floats(-1000, 1000)),
    mirrored=st.booleans(),
    suffix=st.sampled_from((".nii", ".nii.gz")),
)
def test_any_affine_survives_the_round_trip(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    angles: np.ndarray,
    spacing: np.ndarray,
    origin: np.ndarray,
    mirrored: bool,
    suffix: str,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() * spacing * (1, 1, 1 - 2 * mirrored)
    affine[:3, 3] = origin
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    write(numbered(Geometry(SHAPE, affine)), path)
    back = read_segmentation(path)
    np.testing.assert_allclose(back.geometry.affine, affine, rtol=1e-6, atol=1e-4)
    assert back.findings == ()  # qform and sform agree


@pytest.mark.parametrize(
    ("highest", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_labels_are_stored_in_the_smallest_type_that_holds_them(highest: int, dtype: type, tmp_path: Path) -> None:
    array = np.zeros(SHAPE, dtype=np.int64)
    array[0, 0, 0] = highest
    write(Segmentation(array, ORIENTATIONS[0]), tmp_path / "seg.nii.gz")
    assert nib.load(tmp_path / "seg.nii.gz").get_data_dtype() == dtype
    assert read_segmentation(tmp_path / "seg.nii.gz").array.max() == highest


def test_type_follows_the_label_set_even_where_high_labels_are_absent(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, dtype=np.uint8)
    write(Segmentation(array, ORIENTATIONS[0], LabelSet.from_names({300: "high"})), tmp_path / "seg.nii")
    assert nib.load(tmp_path / "seg.nii").get_data_dtype() == np.uint16


def test_header_says_mm_and_scanner_in_qform_and_sform(tmp_path: Path) -> None:
    write(numbered(OBLIQUE[0]), tmp_path / "seg.nii.gz")
    header = nib.load(tmp_path / "seg.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)


def test_sheared_grid_is_written_without_qform_because_a_qform_cannot_hold_it(tmp_path: Path) -> None:
    affine = np.diag((1.0, 1.0, 3.0, 1.0))
    affine[1, 2] = 1.0
    write(numbered(Geometry(SHAPE, affine)), tmp_path / "seg.nii.gz")
    back = read_segmentation(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(back.geometry.affine, affine)
    assert back.findings == ()
    assert int(nib.load(tmp_path / "seg.nii.gz").header["qform_code"]) == 0


def test_label_names_codes_and_colours_come_back_from_the_header_extension(tmp_path: Path) -> None:
    code = Code(scheme="SCT", value="10200004", meaning="Liver")
    labels = LabelSet(labels=(Label(index=3, name="Leber (größter Lappen)", code=code, colour=(9, 8, 7)),))
    write(Segmentation(np.full(SHAPE, 3), OBLIQUE[0], labels), tmp_path / "seg.nii.gz")
    assert read_segmentation(tmp_path / "seg.nii.gz").labels == labels


def test_extension_is_an_ascii_comment_that_nibabel_reads(tmp_path: Path) -> None:
    write(numbered(OBLIQUE[0]), tmp_path / "seg.nii.gz")
    (extension,) = nib.load(tmp_path / "seg.nii.gz").header.extensions
    assert extension.get_code() == 6
    assert extension.text.isascii()
    assert '"Posterior"' in extension.text


def test_grid_beyond_the_sizes_of_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    array = np.zeros((40000, 1, 1), dtype=np.uint8)
    array[39999] = 1
    write(Segmentation(array, Geometry(array.shape, np.eye(4))), tmp_path / "long.nii.gz")
    assert isinstance(nib.load(tmp_path / "long.nii.gz"), nib.Nifti2Image)
    assert read_segmentation(tmp_path / "long.nii.gz").array[39999, 0, 0] == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("geometry", ORIENTATIONS[:8] + OBLIQUE, ids=lambda g: g.orientation)
def test_the_bytes_are_those_that_nibabel_writes(geometry: Geometry, dtype: type, tmp_path: Path) -> None:
    highest = np.iinfo(dtype).max
    labels = LabelSet.from_names({1: "größer", int(highest): "highest"})
    array = np.random.default_rng(0).integers(0, highest, SHAPE, dtype=dtype, endpoint=True)
    write(Segmentation(array, geometry, labels), tmp_path / "ours.nii")
    image = nib.Nifti1Image(array, geometry.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    if not geometry.matches(Geometry(geometry.shape, image.header.get_qform())):
        image.set_qform(None)
    text = json.dumps({"medseg_labels": labels.model_dump(mode="json", exclude_none=True)["labels"]})
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, text.encode("ascii")))
    assert (tmp_path / "ours.nii").read_bytes() == image.to_bytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_does_not_matter(order: Literal["C", "F"], tmp_path: Path) -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).copy(order=order)
    write(Segmentation(array[::-1], OBLIQUE[0]), tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "seg.nii.gz").dataobj), array[::-1])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write(numbered(OBLIQUE[0]), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_unknown_ending_names_the_endings_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seg\.xyz: .* choose one of \.nii\.gz, \.nii\.") as caught:
        write(numbered(OBLIQUE[0]), tmp_path / "seg.xyz")
    assert caught.value.exit_code == 2


def test_negative_label_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="negative label -1"):
        write(Segmentation(np.full(SHAPE, -1), OBLIQUE[0]), tmp_path / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(path: Path, *what: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.formats.nifti.save", fill)
    with pytest.raises(ResourceError, match="disk is full"):
        write(numbered(OBLIQUE[0]), tmp_path / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, numpy as np
from medseg.formats import write
from medseg.geometry import Geometry
from medseg.volume import Segmentation
array = np.random.default_rng(0).integers(0, 256, (256, 256, 512), dtype=np.uint8)
print("writing", flush=True)
write(Segmentation(array, Geometry(array.shape, np.eye(4))), sys.argv[1])
"""


def test_kill_in_the_middle_of_a_write_leaves_no_file_of_that_name_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "seg.nii.gz"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        deadline = time.monotonic() + 30
        while not any(part.stat().st_size > 0 for part in tmp_path.iterdir()):
            assert time.monotonic() < deadline
            assert writer.poll() is None
            time.sleep(0.002)
        os.kill(writer.pid, signal.SIGKILL)
    (leftover,) = tmp_path.iterdir()
    assert leftover != path
    write(numbered(OBLIQUE[0]), path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_segmentation(path).geometry.matches(OBLIQUE[0], tolerance=1e-4)
