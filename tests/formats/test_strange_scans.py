"""Scans that hypothesis makes up: what is read lies where it was made, and what does not is refused in one line.

Voxels hold a field that is linear in space, so that a place which is wrong shows as a value that is wrong. A longer run
for a night, with other scans each time:

    pytest tests/formats/test_strange_scans.py --hypothesis-profile night
"""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from medseg.errors import MedsegError
from medseg.formats import read, scan
from tests.dicom_files import make, save
from tests.enhanced_files import enhanced, frame

ROWS, COLUMNS = 5, 4
GRADIENT = np.array((3.0, -2.0, 5.0))  # of the field, per mm
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless)

angles = st.floats(-180, 180)
spacings = st.floats(0.4, 3)


@dataclass(frozen=True)
class Plan:
    """A series to make.

    Attributes:
        directions: Of growing column and row index, LPS, (2, 3).
        spacing_mm: Between rows, and between columns.
        offsets_mm: Of each slice from the first, LPS, (slices, 3).
        is_regular: Whether nothing about it is odd but a tilt.
        slopes: Of each slice.
        signed: Of each slice.
        syntaxes: Of each slice.
        numbers: InstanceNumber of each slice, in which there is no sense.
        copies: Slices that are there twice.
        is_enhanced: Whether all slices are frames of one file.
    """

    directions: np.ndarray
    spacing_mm: tuple[float, float]
    offsets_mm: np.ndarray
    is_regular: bool
    slopes: list[float]
    signed: list[bool]
    syntaxes: list[UID]
    numbers: list[int]
    copies: list[int]
    is_enhanced: bool


@st.composite
def plans(draw: Any) -> Plan:
    count = draw(st.integers(2, 7))
    turn = Rotation.from_euler("xyz", draw(st.tuples(angles, angles, angles)), degrees=True).as_matrix()
    step_mm = draw(st.floats(0.6, 8))
    tilt = np.tan(np.radians(draw(st.sampled_from((0, 0, 12, -25)))))
    places = np.arange(count, dtype=float)
    trouble = draw(st.sampled_from(("none", "none", "gap", "jitter", "uneven", "sideways")))
    if trouble == "gap":
        places[draw(st.integers(1, count - 1)) :] += draw(st.integers(1, 3))
    elif trouble == "jitter":
        places += draw(st.lists(st.floats(-0.02, 0.02), min_size=count, max_size=count))
    elif trouble == "uneven":
        places += draw(st.lists(st.floats(-0.3, 0.3), min_size=count, max_size=count))
    offsets = np.outer(places * step_mm, turn[:, 2] + tilt * turn[:, 1])
    if trouble == "sideways":
        offsets += np.outer(draw(st.lists(st.floats(-4, 4), min_size=count, max_size=count)), turn[:, 0])
    each = {"min_size": count, "max_size": count}
    return Plan(
        directions=turn[:, :2].T,
        spacing_mm=draw(st.tuples(spacings, spacings)),
        offsets_mm=offsets,
        is_regular=trouble == "none",
        slopes=draw(st.lists(st.sampled_from((0.1, 0.2, 0.25)), **each)),
        signed=draw(st.lists(st.booleans(), **each)),
        syntaxes=draw(st.lists(st.sampled_from(SYNTAXES), **each)),
        numbers=draw(st.permutations(range(count))),
        copies=draw(st.lists(st.integers(0, count - 1), max_size=2, unique=True)),
        is_enhanced=draw(st.booleans()),
    )


def field(points_lps: np.ndarray) -> np.ndarray:
    return 1000 + points_lps @ GRADIENT


def stored(plan: Plan, k: int) -> np.ndarray:
    j, i = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    between_rows, between_columns = plan.spacing_mm
    points = plan.offsets_mm[k] + i[..., None] * between_columns * plan.directions[0]
    return np.rint(field(points + j[..., None] * between_rows * plan.directions[1]) / plan.slopes[k])


def written(plan: Plan, folder: Path) -> Path:
    place = {"ImageOrientationPatient": [round(x, 9) for x in plan.directions.ravel().tolist()]}
    place["PixelSpacing"] = [round(x, 9) for x in plan.spacing_mm]
    if plan.is_enhanced:
        frames = [frame(0, slope=slope) for slope in plan.slopes]
        for one, offset in zip(frames, plan.offsets_mm, strict=True):
            one.PlanePositionSequence[0].ImagePositionPatient = [round(x, 6) for x in offset.tolist()]
            one.PlaneOrientationSequence[0].ImageOrientationPatient = place["ImageOrientationPatient"]
            one.PixelValueTransformationSequence[0].RescaleIntercept = 0
        image = enhanced(frames, np.array([stored(plan, k) for k in range(len(frames))]))
        image.Rows, image.Columns, image.BitsStored, image.HighBit = ROWS, COLUMNS, 16, 15
        measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = place["PixelSpacing"]
        return save(folder, image)
    slices = []
    for k in [*range(len(plan.offsets_mm)), *plan.copies]:
        values = stored(plan, k).astype(np.int16 if plan.signed[k] else np.uint16)
        one = make(
            0,
            values[np.newaxis],
            SOPInstanceUID=UID(f"1.2.3.4.{k}"),
            ImagePositionPatient=[round(x, 6) for x in plan.offsets_mm[k].tolist()],
            InstanceNumber=plan.numbers[k],
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=int(plan.signed[k]),
            RescaleSlope=plan.slopes[k],
            RescaleIntercept=0,
            **place,
        )
        if plan.syntaxes[k] == RLELossless:
            one.compress(RLELossless)
        one.file_meta.TransferSyntaxUID = plan.syntaxes[k]
        slices.append(one)
    return save(folder, *slices)


@given(plan=plans())
def test_made_up_dicom_series_is_read_where_it_was_made_or_refused(plan: Plan) -> None:
    volume, refusal = None, ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            volume = read(written(plan, Path(folder, "series")))
        except MedsegError as error:
            refusal = str(error)
    if volume is None:
        assert not plan.is_regular, refusal
        assert refusal.isprintable()
        return
    # Interpolation at an edge has no data beyond it, so that places off the slices are looked at with care.
    geometry = volume.geometry
    points = geometry.to_world(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)) * (-1, -1, 1)
    off = np.abs(volume.array[0] - field(points))
    fine = 0.2 + 0.01 * np.abs(GRADIENT).sum()
    if plan.is_regular:
        assert off.max() < fine
        return
    step_mm = geometry.spacing_mm[2]
    rough = fine + np.linalg.norm(GRADIENT) * (0.06 * step_mm + 0.27 * max(plan.spacing_mm))
    inner = off
    if any(finding.code == "drift" for finding in volume.findings):
        reach = int(np.ceil(9 / min(plan.spacing_mm)))  # a slice that is moved has an edge without data
        inner = off[reach : COLUMNS - reach, :]
    assert inner.size == 0 or inner.max() < rough


@st.composite
def headers(draw: Any) -> dict[str, Any]:
    turn = Rotation.from_euler("xyz", draw(st.tuples(angles, angles, angles)), degrees=True).as_matrix()
    zooms = draw(st.tuples(spacings, spacings, spacings))
    affine = np.eye(4)
    affine[:3, :3] = turn * zooms * draw(st.sampled_from(((1, 1, 1), (-1, 1, 1), (1, 1, -1))))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    sheared = affine @ (np.eye(4) + 0.3 * np.eye(4, k=1) * [[1], [0], [0], [0]]) if draw(st.booleans()) else affine
    return {
        "affine": affine,
        "sform": sheared,
        "codes": draw(st.sampled_from(((1, 1), (1, 0), (0, 1), (2, 4), (0, 0)))),  # sform, qform
        "units": draw(st.sampled_from(("mm", "meter", "micron", "unknown"))),
        "kind": draw(st.sampled_from((nib.Nifti1Image, nib.Nifti2Image))),
        "order": draw(st.sampled_from("<>")),
        "dtype": draw(st.sampled_from(("u1", "i2", "u2", "i4", "f4", "f8"))),
        "slope": draw(st.sampled_from((None, (0.5, -3.0), (2.0, 0.0)))),
        "name": draw(st.sampled_from(("a.nii", "a.nii.gz"))),
        "gzipped": draw(st.booleans()),
    }


@given(made=headers(), seed=st.integers(0, 99))
def test_made_up_nifti_is_read_where_its_header_says(made: dict[str, Any], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 100, (4, 3, 5)).astype(made["dtype"])
    header = made["kind"].header_class(endianness=made["order"])
    image = made["kind"](array, made["affine"], header, dtype=made["dtype"])
    per_unit = {"mm": 1, "meter": 1000, "micron": 0.001, "unknown": 1}[made["units"]]
    image.header.set_xyzt_units(made["units"])
    image.set_qform(np.diag([1 / per_unit] * 3 + [1]) @ made["affine"], code=made["codes"][1])
    image.set_sform(np.diag([1 / per_unit] * 3 + [1]) @ made["sform"], code=made["codes"][0])
    if made["slope"]:
        image.header.set_slope_inter(*made["slope"])
    with tempfile.TemporaryDirectory() as folder:
        image.to_filename(Path(folder, "plain.nii"))
        content = Path(folder, "plain.nii").read_bytes()
        Path(folder, "plain.nii").unlink()
        Path(folder, made["name"]).write_bytes(gzip.compress(content) if made["gzipped"] else content)
        (series,) = scan(folder).series
        volume = read(series)
    slope, intercept = made["slope"] or (1, 0)  # nibabel writes the array as it is beside them
    np.testing.assert_allclose(volume.array[0], array * slope + intercept, atol=1e-3)
    if made["codes"] != (0, 0):
        expected = made["sform"] if made["codes"][0] else made["affine"]
        np.testing.assert_allclose(volume.geometry.affine, expected, rtol=1e-4, atol=1e-3)
    else:
        assert "no-orientation" in [finding.code for finding in volume.findings]
