import csv
import json

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from medseg.cli import main
from medseg.convert import convert
from medseg.formats import write
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import Segmentation
from tests.label_files import grid, phantom, scan_files
from tests.tiny import files_below


def block(shift=0, label=1):
    array = np.zeros((16, 12, 10), dtype=np.uint8)
    array[4 + shift : 8 + shift, 4:8, 3:7] = label
    return array


def save(path, array=None, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = block() if array is None else array
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1]) if affine is None else affine), path)


def evaluate(*words):
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


@pytest.fixture
def folders(tmp_path):
    for number in range(4):
        save(tmp_path / "truth" / f"case{number}.nii.gz")
        save(tmp_path / "found" / f"case{number}_seg.nii.gz", block(shift=number % 3))
    return tmp_path / "truth", tmp_path / "found"


def test_folders_are_paired_by_name_and_summed_up_as_nnunet_does(folders, tmp_path):
    result = evaluate(*folders, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert files_below(tmp_path / "out") == ["metrics.csv", "report.html", "summary.json"]
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    dice = [1, 0.75, 0.5, 1]
    assert content["foreground_mean"]["Dice"] == content["mean"]["1"]["Dice"] == pytest.approx(np.mean(dice))
    first = content["metric_per_case"][1]
    assert first["prediction_file"] == "case1_seg.nii.gz"
    expected = {"Dice": 0.75, "TP": 48, "FP": 16, "FN": 16, "TN": 1920 - 80, "n_pred": 64, "n_ref": 64}
    assert {key: first["metrics"]["1"][key] for key in expected} == expected
    assert content["units"]["hausdorff_mm"] == "mm"
    low, high = content["confidence_intervals"]["1"]["dice"]
    assert 0.5 <= low < np.mean(dice) < high <= 1


def test_csv_has_one_line_a_value(folders, tmp_path):
    evaluate(*folders, "-o", tmp_path / "out", "--metrics", "dice,mean_iou,hausdorff_mm")
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = {(row["case"], row["label"], row["metric"]): (row["value"], row["unit"]) for row in rows}
    assert values["case1", "label 1", "dice"] == ("0.75", "1")
    assert values["case2", "label 1", "hausdorff_mm"] == ("2", "mm")
    assert float(values["case0", "", "mean_iou"][0]) == 1
    assert len(values) == len(rows)


def test_missing_and_surplus_files_are_listed_and_missing_ones_end_with_6(folders, tmp_path):
    truth, found = folders
    (found / "case2_seg.nii.gz").rename(found / "stray.nii.gz")
    result = evaluate(truth, found, "-o", tmp_path / "out")
    assert result.exit_code == 6
    assert "no prediction: case2" in result.stdout
    assert "no reference: stray" in result.stdout
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (content["missing_predictions"], content["surplus_predictions"]) == (["case2"], ["stray"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "case2: no prediction." in page
    assert "stray: a prediction without a reference" in page


def test_damaged_file_fails_alone_with_its_reason(folders, tmp_path):
    truth, found = folders
    (found / "case1_seg.nii.gz").write_bytes(b"\x1f\x8b torn")
    save(found / "case3_seg.nii.gz", block(), affine=np.diag([1, 1, 3, 1]))
    result = evaluate(truth, found, "-o", tmp_path / "out")
    assert result.exit_code == 6
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["case"] for case in content["metric_per_case"]] == ["case0", "case2"]
    damaged, other_grid = content["failed"]
    assert (damaged["case"], other_grid["case"]) == ("case1", "case3")
    assert "--resample" in other_grid["error"]
    assert len(result.stderr.splitlines()) == 1


def test_empty_folder_and_missing_path_end_with_3(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        result = evaluate(folders[0], path)
        assert result.exit_code == 3
        assert str(path) in result.stderr


def test_two_files_of_one_name_are_refused_rather_than_one_dropped(folders):
    save(folders[1] / "again" / "case1_seg.nii.gz")
    result = evaluate(*folders)
    assert result.exit_code == 3
    assert "case1_seg" in result.stderr


def test_merged_labels_are_measured_as_one_beside_their_parts(tmp_path):
    reference, prediction = block(), block()
    reference[4:6][reference[4:6] == 1] = 2  # half liver, half lesion; all of it called liver
    save(tmp_path / "r.nii.gz", reference)
    save(tmp_path / "p.nii.gz", prediction)
    result = evaluate(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", "--merge", "whole = 1 + 2", "--json")
    rows = {row["name"]: row["dice"] for row in json.loads(result.stdout)["labels"]}
    assert rows == {"label 1": pytest.approx(2 / 3), "label 2": 0, "whole": 1}


def test_mapping_file_translates_the_predictions_numbers(tmp_path):
    save(tmp_path / "r.nii.gz", block(label=3))
    save(tmp_path / "p.nii.gz", block(label=70))
    (tmp_path / "map.yaml").write_text("70: 3\n")
    files = tmp_path / "r.nii.gz", tmp_path / "p.nii.gz"
    assert json.loads(evaluate(*files, "--json").stdout)["mean"]["dice"] == 0
    assert json.loads(evaluate(*files, "--map", tmp_path / "map.yaml", "--json").stdout)["mean"]["dice"] == 1


def named(path, array, names):
    segmentation = Segmentation(array, Geometry(array.shape, np.eye(4)), LabelSet.from_names(names))
    write(segmentation, path)


def test_labels_of_one_name_are_one_whatever_their_numbers_where_names_decide(tmp_path):
    reference, prediction = block(), block()
    reference[12:, 4:8, 3:7] = 2
    prediction[prediction == 1], prediction[12:, 4:8, 3:7] = 2, 1
    prediction[0, 0, 0] = 3
    files = tmp_path / "r.nii.gz", tmp_path / "p.nii.gz"
    named(files[0], reference, {1: "liver", 2: "spleen", 3: "heart"})
    named(files[1], prediction, {1: "Spleen", 2: "LIVER", 3: "kidney"})
    by_number = json.loads(evaluate(*files, "--json").stdout)
    assert [row["dice"] for row in by_number["labels"][:2]] == [0, 0]
    assert any("--map names" in finding["message"] for finding in by_number["findings"])
    by_name = json.loads(evaluate(*files, "--map", "names", "--json").stdout)
    expected = {"liver": (1, 64, 64), "spleen": (1, 64, 64), "heart": (None, 0, 0), "kidney": (0, 0, 1)}
    found = {r["name"]: (r["dice"], r["reference_voxels"], r["prediction_voxels"]) for r in by_name["labels"]}
    assert found == expected


def test_names_cannot_decide_where_a_file_has_none(folders):
    result = evaluate(folders[0] / "case0.nii.gz", folders[1] / "case0_seg.nii.gz", "--map", "names")
    assert (result.exit_code, "mapping file" in result.stderr) == (2, True)


def test_label_that_is_not_in_the_set_is_measured_and_a_finding(tmp_path):
    prediction = block()
    prediction[0, 0, 0] = 9
    named(tmp_path / "r.nii.gz", block(), {1: "liver"})
    save(tmp_path / "p.nii.gz", prediction, affine=np.eye(4))
    content = json.loads(evaluate(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", "--json").stdout)
    assert [row["name"] for row in content["labels"]] == ["liver", "label 9"]
    assert [finding["code"] for finding in content["findings"]] == ["label-not-in-set"]


def test_scan_in_the_place_of_labels_is_doubted(tmp_path):
    scan = np.arange(16 * 12 * 10, dtype=np.int16).reshape(16, 12, 10) % 300
    save(tmp_path / "r.nii.gz", scan)
    save(tmp_path / "p.nii.gz")
    assert "a scan instead of labels" in evaluate(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz").stdout


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-binary", "dicom-rtstruct"])
def test_folders_of_dicom_labels_are_compared_with_those_of_nifti(tmp_path, kind):
    for number in range(2):
        scan = scan_files(tmp_path / f"ct{number}")[0].parent
        truth = tmp_path / "truth" / f"case{number}.nii.gz"
        truth.parent.mkdir(exist_ok=True)
        write(phantom(grid()), truth)
        (tmp_path / "found").mkdir(exist_ok=True)
        convert(truth, tmp_path / "found" / f"case{number}.dcm", source=scan, output_type=kind)
    result = evaluate(tmp_path / "truth", tmp_path / "found", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["case"] for case in content["metric_per_case"]] == ["case0", "case1"]
    assert content["foreground_mean"]["Dice"] == 1


def test_slices_are_measured_each_for_itself_and_listed(tmp_path):
    prediction = block()
    prediction[4:6, :, 4] = 0  # half of one slice of four
    save(tmp_path / "r.nii.gz")
    save(tmp_path / "p.nii.gz", prediction)
    files = tmp_path / "r.nii.gz", tmp_path / "p.nii.gz"
    result = evaluate(*files, "--per-slice", "axial", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "means over slices" in result.stdout
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "dice"]
    values = {row["slice"]: float(row["value"]) for row in rows}
    half = pytest.approx(2 / 3)
    assert values == {"": pytest.approx((3 + 2 / 3) / 4), "3": 1, "4": half, "5": 1, "6": 1}
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert content["conventions"]["slices"].startswith("axial")
    assert content["metric_per_case"][0]["metrics"]["1"]["prediction_ml"] == pytest.approx(56 * 2 / 1000)
    assert "axial" in (tmp_path / "out" / "report.html").read_text()


def test_ignored_voxels_of_the_reference_are_left_out(tmp_path):
    reference = block()
    reference[6:8][reference[6:8] == 1] = 255
    save(tmp_path / "r.nii.gz", reference)
    save(tmp_path / "p.nii.gz", block())
    result = evaluate(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", "--ignore", "255", "--json")
    (row,) = json.loads(result.stdout)["labels"]
    assert (row["dice"], row["prediction_voxels"]) == (1, 32)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--metrics", "dise"], ["'dise'", "dice"]),
        (["--merge", "liver"], ["'liver'", "liver + lesion"]),
        (["--merge", "a = nothing"], ["'nothing'"]),
        (["--map", "missing.yaml"], ["missing.yaml"]),
    ],
)
def test_wrong_settings_are_one_line_with_2(folders, options, parts):
    result = evaluate(folders[0] / "case0.nii.gz", folders[1] / "case0_seg.nii.gz", *options)
    assert result.exit_code == 2, result.output
    assert all(part in result.stderr for part in parts)


def test_second_prediction_is_compared_case_by_case(folders, tmp_path):
    truth, found = folders
    result = evaluate(truth, found, "--versus", truth, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    tests = json.loads((tmp_path / "out" / "summary.json").read_text())["paired_comparison"]
    dice = next(test for test in tests if test["metric"] == "dice")
    assert (dice["cases"], dice["mean_second"], dice["median_difference"]) == (4, 1, 0.125)
    assert dice["p"] <= dice["p_holm"] <= 1
    assert "Second prediction" in (tmp_path / "out" / "report.html").read_text()


def test_names_that_may_identify_a_patient_are_withheld_unless_asked_for(tmp_path):
    name = "DOE^JANE_19700102"
    save(tmp_path / "truth" / f"{name}.nii.gz")
    save(tmp_path / "found" / f"{name}.nii.gz", block(shift=1))
    save(tmp_path / "truth" / "hippocampus_001.nii.gz")
    (tmp_path / "found" / "hippocampus_001.nii.gz").write_bytes(b"torn")
    result = evaluate(tmp_path / "truth", tmp_path / "found", "-o", tmp_path / "out")
    assert result.exit_code == 6
    for text in (result.output, *(path.read_text() for path in (tmp_path / "out").iterdir())):
        assert "DOE^" not in text
        assert "JANE_1970" not in text
        assert "hippocampus_001" in text or "metric,value" in text
    assert "DOE^JANE" in evaluate(tmp_path / "truth", tmp_path / "found", "--show-names").stdout


def test_two_files_of_one_patient_are_refused_without_the_name(tmp_path):
    save(tmp_path / "truth" / "a.nii.gz")
    for folder in ("one", "two"):
        save(tmp_path / "found" / folder / "DOE^JANE.nii.gz")
    result = evaluate(tmp_path / "truth", tmp_path / "found")
    assert result.exit_code == 3
    assert "DOE" not in result.output


def test_failing_write_leaves_no_file_of_three(folders, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.atomic.os.fsync", fail)
    result = evaluate(*folders, "-o", tmp_path / "out")
    assert result.exit_code == 5
    assert files_below(tmp_path / "out") == []
