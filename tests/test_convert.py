import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result

import medseg
from medseg.cli import main
from medseg.convert import convert
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.formats import read_segmentation, write
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.label_files import LABELS, dciodvfy, grid, phantom, scan_files

FORMS = {"nifti": "a.nii.gz", "dicom-seg": "a.dcm", "dicom-seg-binary": "b.dcm", "dicom-rtstruct": "c.dcm"}
NAMES = {2: "liver", 5: "Läsion"}


@pytest.fixture
def scan(tmp_path) -> Path:
    return scan_files(tmp_path / "ct")[0].parent


@pytest.fixture
def mask(tmp_path) -> Path:
    write(phantom(grid()), tmp_path / "mask.nii.gz")
    return tmp_path / "mask.nii.gz"


def medseg_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("first", list(FORMS))
@pytest.mark.parametrize("second", list(FORMS))
def test_labels_go_through_any_two_formats_and_come_back(tmp_path, scan, mask, first, second):
    one, two, end = tmp_path / f"1{FORMS[first]}", tmp_path / f"2{FORMS[second]}", tmp_path / "end.nii.gz"
    convert(mask, one, source=scan, output_type=first)
    convert(one, two, source=scan, output_type=second)
    convert(two, end, source=scan)
    back = read_segmentation(end)
    np.testing.assert_array_equal(back.array, phantom(grid()).array)
    assert back.geometry.matches(grid(), tolerance=1e-3)
    names = LABELS.names if first == second == "nifti" else NAMES
    assert back.labels.names == names
    assert back.labels[2].code == LABELS[2].code


def test_ending_chooses_nifti_or_dicom_seg(tmp_path, scan, mask):
    convert(mask, tmp_path / "seg.dcm", source=scan)
    assert read_segmentation(tmp_path / "seg.dcm").geometry.matches(grid())
    convert(tmp_path / "seg.dcm", tmp_path / "seg.nii")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.nii").array, phantom(grid()).array)


def test_chosen_labels_alone_are_converted(tmp_path, scan, mask):
    for source in (mask, tmp_path / "seg.dcm"):
        out = tmp_path / f"{source.name}.dcm"
        convert(source, tmp_path / "seg.dcm" if source == mask else out, source=scan, names=["Läsion"])
    assert read_segmentation(out).labels.names == {5: "Läsion"}
    np.testing.assert_array_equal(read_segmentation(out).array == 5, phantom(grid()).array == 5)
    with pytest.raises(ConfigError, match="'spleen'"):
        convert(mask, tmp_path / "x.dcm", source=scan, names=["spleen"])


@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize(
    ("output", "options", "error", "message"),
    [
        ("x.dcm", {}, ConfigError, "--source"),
        ("x.dcm", {"output_type": "dicom-sag"}, ConfigError, "'dicom-sag' is not available"),
        ("x.nii.gz", {"output_type": "dicom-seg", "source": "ct"}, ConfigError, "written to .dcm"),
        ("x.dcm", {"source": "mask.nii.gz"}, ConfigError, "not a DICOM series"),
        ("x.txt", {}, ConfigError, "no format is written"),
        ("x.dcm", {"source": "nowhere"}, InputError, "no such file"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_appears(tmp_path, mask, *, output, options, error, message):
    if "source" in options:
        options = options | {"source": tmp_path / options["source"]}
    with pytest.raises(error, match=message):
        convert(mask, tmp_path / output, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "mask.nii.gz"]


def test_unknown_origin_does_not_claim_to_be_automatic(tmp_path, scan, mask):
    convert(mask, tmp_path / "a.dcm", source=scan)
    convert(mask, tmp_path / "b.dcm", source=scan, algorithm="Expert 1.0")
    kinds = [pydicom.dcmread(tmp_path / name).SegmentSequence[1].SegmentAlgorithmType for name in ("a.dcm", "b.dcm")]
    assert kinds == ["SEMIAUTOMATIC", "AUTOMATIC"]


def test_command_names_the_file_and_what_is_doubtful(tmp_path, scan, mask):
    out = tmp_path / "plan.dcm"
    result = medseg_command("convert", mask, out, "--source", scan, "--output-type", "dicom-rtstruct", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["output"], content["findings"][0]["code"]) == (str(out), "empty-segments")
    assert dciodvfy(out) == []
    result = medseg_command("convert", out, tmp_path / "x.nii.gz")
    assert result.exit_code == 3
    assert "contours have no grid" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("output_type", ["dicom-seg", "dicom-seg-binary", "dicom-rtstruct"])
def test_evaluation_against_dicom_labels_is_that_against_the_mask(tmp_path, scan, mask, output_type):
    convert(mask, tmp_path / "reference.dcm", source=scan, output_type=output_type)
    worse = phantom(grid()).array.copy()
    worse[:8] = 0
    worse[17, 20, 0] = 2  # on a slice where BINARY has no frame
    write(Segmentation(worse, grid(), LABELS), tmp_path / "prediction.nii.gz")
    expected = medseg.evaluate(mask, tmp_path / "prediction.nii.gz")
    for reference, prediction in (("reference.dcm", "prediction.nii.gz"), ("prediction.nii.gz", "reference.dcm")):
        report = medseg.evaluate(tmp_path / reference, tmp_path / prediction)
        rows = {row.index: row.dice for row in report.rows if row.index != 7}
        assert rows == pytest.approx({row.index: row.dice for row in expected.rows if row.index != 7})
    in_memory = medseg.evaluate(tmp_path / "reference.dcm", read_segmentation(tmp_path / "prediction.nii.gz"))
    assert in_memory.rows[0].dice == pytest.approx(expected.rows[0].dice)


def test_evaluation_on_another_grid_has_to_be_asked_for(tmp_path, scan, mask):
    convert(mask, tmp_path / "reference.dcm", source=scan)
    finer = grid().affine @ np.diag((0.7, 1, 1, 1))
    other = Segmentation(np.ones((28, 24, 7), np.uint8) * 2, Geometry((28, 24, 7), finer))
    write(other, tmp_path / "other.nii.gz")
    with pytest.raises(GeometryError, match="--resample"):
        medseg.evaluate(tmp_path / "reference.dcm", tmp_path / "other.nii.gz")
    report = medseg.evaluate(tmp_path / "reference.dcm", tmp_path / "other.nii.gz", resample=True)
    assert 0 < report.rows[0].dice < 1


def test_names_are_refused_for_labels_that_have_none(tmp_path, scan):
    write(Segmentation(phantom(grid()).array, grid()), tmp_path / "plain.nii.gz")
    with pytest.raises(ConfigError, match="have no names"):
        convert(tmp_path / "plain.nii.gz", tmp_path / "x.dcm", source=scan, names=["liver"])
    convert(tmp_path / "plain.nii.gz", tmp_path / "x.dcm", source=scan)
    assert read_segmentation(tmp_path / "x.dcm").labels.names == {2: "label 2", 5: "label 5"}
