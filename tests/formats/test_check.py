from contextlib import nullcontext

import nibabel
import numpy as np
import pydicom
import pytest

import medseg.formats.dicom_seg_write
import medseg.formats.nifti
import medseg.formats.rtstruct_write
from medseg.errors import VerificationError
from medseg.formats import read_segmentation, write, write_onto_source
from medseg.formats.check import confirm, extents
from medseg.formats.planes import Planes
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.label_files import grid, phantom, scan_files
from tests.phantoms import affine_of, rotation

GEOMETRY = Geometry((9, 8, 7), affine_of((0.5, 1.5, 3.0), (10, -20, 30), rotation(20, (1, 2, 3))))


def block() -> np.ndarray:
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[2:5, 3:7, 1:3] = 1
    array[8, 7, 6] = 200
    return array


def measured(array, geometry=GEOMETRY):
    return extents(array.transpose(2, 1, 0), Planes.of(geometry))


def test_extents_of_a_block_are_its_closed_form():
    found = measured(block())
    assert found.keys() == {1, 200}
    assert found[1].volume_mm3 == pytest.approx(3 * 4 * 2 * 0.5 * 1.5 * 3)
    np.testing.assert_allclose(found[1].centroid_mm, GEOMETRY.to_world((3, 4.5, 1.5)))
    corners = GEOMETRY.to_world([(i, j, k) for i in (2, 4) for j in (3, 6) for k in (1, 2)])
    np.testing.assert_allclose(found[1].box_mm, (corners.min(axis=0), corners.max(axis=0)))
    np.testing.assert_allclose(found[200].centroid_mm, GEOMETRY.to_world((8, 7, 6)))


def test_extents_of_labels_beyond_16_bits_are_the_same():
    large = block().astype(np.uint32)
    large[large == 200] = 4_000_000_000
    found, small = measured(large), measured(block())
    assert found.keys() == {1, 4_000_000_000}
    np.testing.assert_allclose(found[1].centroid_mm, small[1].centroid_mm)
    np.testing.assert_allclose(found[4_000_000_000].centroid_mm, small[200].centroid_mm)
    full = np.full(GEOMETRY.shape, 70_000, np.uint32)  # and without any background
    assert measured(full)[70_000].volume_mm3 == pytest.approx(9 * 8 * 7 * 0.5 * 1.5 * 3)


def moved(geometry, shift_mm):
    affine = geometry.affine.copy()
    affine[0, 3] += shift_mm
    return Geometry(geometry.shape, affine)


def scaled(geometry, factor):
    return Geometry(geometry.shape, geometry.affine @ np.diag((factor, 1, 1, 1)))


def without_a_voxel(array):
    array = array.copy()
    array[2, 3, 1] = 0
    return array


@pytest.mark.parametrize(
    ("array", "geometry", "what"),
    [
        (block(), moved(GEOMETRY, 0.2), "centroid of label 1"),
        (block(), scaled(GEOMETRY, 1.01), "label 1 has"),
        (block()[::-1], GEOMETRY, "centroid of label 1"),
        (without_a_voxel(block()), GEOMETRY, "label 1 has"),
        (np.where(block() == 200, 0, block()), GEOMETRY, "label 200 is missing"),
        (np.where(block() == 0, 3, block()), GEOMETRY, "label 3 is not in the segmentation"),
        (np.where(block() == 200, 201, block()), GEOMETRY, "label 200 is missing"),
    ],
)
def test_every_kind_of_difference_is_found(tmp_path, array, geometry, what):
    wanted = (block().transpose(2, 1, 0), Planes.of(GEOMETRY))
    with pytest.raises(VerificationError, match=f"x: read back.*{what}.*file was removed"):
        confirm(tmp_path / "x", wanted, (array.transpose(2, 1, 0), Planes.of(geometry)))


def test_the_same_labels_in_another_place_are_found_however_little_is_moved(tmp_path):
    wanted = (block().transpose(2, 1, 0), Planes.of(GEOMETRY))
    for shift_mm, passes in ((0.0069, True), (0.0071, False)):  # a hundredth of 0.5 mm, and 2 µm
        found = (block().transpose(2, 1, 0), Planes.of(moved(GEOMETRY, shift_mm)))
        with nullcontext() if passes else pytest.raises(VerificationError):
            confirm(tmp_path / "x", wanted, found)


def test_voxel_that_moved_within_a_label_of_the_same_size_is_found_by_the_box(tmp_path):
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[2:7, 3, 3] = array[3, 3, 3] = 1
    other = array.copy()
    other[2, 3, 3] = other[6, 3, 3] = 0
    other[4, 2, 3] = other[4, 4, 3] = 1  # same centroid, same number of voxels
    wanted, found = ((a.transpose(2, 1, 0), Planes.of(GEOMETRY)) for a in (array, other))
    with pytest.raises(VerificationError, match="the box of label 1"):
        confirm(tmp_path / "x", wanted, found)


def test_the_same_labels_pass_whatever_the_order_of_planes(tmp_path):
    flipped = Geometry(
        GEOMETRY.shape, GEOMETRY.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1]])
    )
    confirm(
        tmp_path / "x",
        (block().transpose(2, 1, 0), Planes.of(GEOMETRY)),
        (block()[:, :, ::-1].transpose(2, 1, 0), Planes.of(flipped)),
    )


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_that_is_written_wrongly_never_appears(tmp_path, monkeypatch, ending):
    def swapped(part, array, geometry, labels):
        nibabel.save(nibabel.Nifti1Image(array[::-1], geometry.affine), part)

    monkeypatch.setattr(medseg.formats.nifti, "save", swapped)
    with pytest.raises(VerificationError, match="centroid of label 1"):
        write(Segmentation(block(), GEOMETRY), tmp_path / f"seg{ending}")
    assert list(tmp_path.iterdir()) == []


def test_file_that_was_there_before_survives_a_failed_check(tmp_path, monkeypatch):
    path = tmp_path / "seg.nii.gz"
    write(Segmentation(block(), GEOMETRY), path)
    before = path.read_bytes()

    def fail(*args):
        raise VerificationError("no")

    monkeypatch.setattr(medseg.formats.nifti, "confirm", fail)
    with pytest.raises(VerificationError):
        write(Segmentation(block(), GEOMETRY), path)
    assert path.read_bytes() == before


def test_sheared_nifti_which_itk_refuses_is_read_back_all_the_same(tmp_path, monkeypatch):
    shear = np.eye(4)
    shear[1, 2] = 0.6
    sheared = Geometry(GEOMETRY.shape, shear @ GEOMETRY.affine)
    path = tmp_path / "seg.nii.gz"
    write(Segmentation(block(), sheared), path)
    np.testing.assert_array_equal(read_segmentation(path).array, block())

    def stretched(part, array, geometry, labels):
        nibabel.save(nibabel.Nifti1Image(array, geometry.affine @ np.diag((1, 1, 2, 1))), part)

    monkeypatch.setattr(medseg.formats.nifti, "save", stretched)
    with pytest.raises(VerificationError):
        write(Segmentation(block(), sheared), path)


def test_nifti_whose_qform_contradicts_its_sform_never_appears(tmp_path, monkeypatch):
    def turned(part, array, geometry, labels):
        image = nibabel.Nifti1Image(array, geometry.affine)
        image.set_qform(geometry.affine @ np.diag((-1, 1, 1, 1)), code=1)
        nibabel.save(image, part)

    monkeypatch.setattr(medseg.formats.nifti, "save", turned)
    with pytest.raises(VerificationError, match="qform and sform place the scan differently"):
        write(Segmentation(block(), GEOMETRY), tmp_path / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_nifti_that_is_cut_short_never_appears(tmp_path, monkeypatch):
    save = medseg.formats.nifti.save

    def cut(part, *what):
        save(part, *what)
        part.write_bytes(part.read_bytes()[:-20])

    monkeypatch.setattr(medseg.formats.nifti, "save", cut)
    with pytest.raises(VerificationError, match="damaged or cut short"):
        write(Segmentation(block(), GEOMETRY), tmp_path / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == []


def reversed_frames(path):
    data = pydicom.dcmread(path)
    frames = list(data.PerFrameFunctionalGroupsSequence)
    positions = [frame.PlanePositionSequence for frame in frames]
    for frame, position in zip(frames, reversed(positions), strict=True):
        frame.PlanePositionSequence = position
    data.save_as(path)


def swapped_spacing(path):
    data = pydicom.dcmread(path)
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = measures.PixelSpacing[::-1]
    data.save_as(path)


def shifted_contours(path):
    data = pydicom.dcmread(path)
    for item in data.ROIContourSequence:
        for contour in item.ContourSequence:
            contour.ContourData = [str(round(float(value) + 2, 4)) for value in contour.ContourData]
    data.save_as(path)


@pytest.mark.parametrize(
    ("output_type", "module", "damage"),
    [
        ("dicom-seg", medseg.formats.dicom_seg_write, reversed_frames),
        ("dicom-seg", medseg.formats.dicom_seg_write, swapped_spacing),
        ("dicom-seg-binary", medseg.formats.dicom_seg_write, swapped_spacing),
        ("dicom-rtstruct", medseg.formats.rtstruct_write, shifted_contours),
    ],
)
def test_dicom_object_that_is_written_wrongly_never_appears(tmp_path, monkeypatch, output_type, module, damage):
    paths = scan_files(tmp_path / "ct")
    name = "read_structures" if output_type == "dicom-rtstruct" else "read_frames"
    read_back = getattr(module, name)

    def after_damage(path):
        damage(path)
        return read_back(path)

    monkeypatch.setattr(module, name, after_damage)
    with pytest.raises(VerificationError, match=r"out\.dcm: read back"):
        write_onto_source(phantom(grid()), tmp_path / "out.dcm", output_type, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]
