"""What one case leaves on disk, and when it is done again."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from medseg.case import Predictor
from medseg.config import PredictConfig
from medseg.errors import ConfigError, InputError
from medseg.formats import read_segmentation
from medseg.inputs import find_inputs
from medseg.ledger import Status
from medseg.model import load_model
from tests.one_case import run
from tests.tiny import LABELS, files_below, labels_in, phantom, save_scan, save_tiny_model

pytestmark = pytest.mark.usefixtures("exact")


def test_mask_is_on_the_scans_grid_in_the_smallest_type_with_label_names(tmp_path, model):
    run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model)
    segmentation = read_segmentation(tmp_path / "out" / "scan_seg.nii.gz")
    np.testing.assert_array_equal(segmentation.array, (phantom() == 150) + 4 * (phantom() == 280))
    assert segmentation.array.dtype == np.uint8
    assert segmentation.labels.names == LABELS
    assert segmentation.geometry.spacing_mm == (1, 1, 2)


def test_statistics_of_the_phantom_are_its_closed_form(tmp_path, model):
    run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model)
    dim, bright = json.loads((tmp_path / "out" / "statistics.json").read_text())["labels"]
    assert dim == {
        "index": 1,
        "name": "dim",
        "voxels": 216,
        "volume_mm3": 432,
        "volume_ml": 0.432,
        "mean_intensity": 150,
        "touches_border": False,
    }
    assert (bright["voxels"], bright["touches_border"]) == (48, True)


def test_record_holds_sums_versions_settings_and_stages_but_no_path_of_the_machine(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    run(scan, tmp_path / "out", model, overlap=0.25)
    text = (tmp_path / "out" / "run.json").read_text()
    record = json.loads(text)
    assert record["input"]["sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert record["model"]["sha256"] == load_model(model).info.sha256
    assert record["settings"]["windows"]["overlap"] == 0.25
    assert {"python", "numpy", "torch", "monai"} <= record["versions"].keys()
    assert [stage["name"] for stage in record["stages"]] == ["hash", "read", "load", "segment", "write"]
    assert all(stage["seconds"] >= 0 and stage["peak_memory_mib"] > 10 for stage in record["stages"])
    for output in record["outputs"]:
        content = (tmp_path / "out" / output["name"]).read_bytes()
        assert output["sha256"] == hashlib.sha256(content).hexdigest()
    assert [output["name"] for output in record["outputs"]] == ["scan_seg.nii.gz", "statistics.json", "preview.png"]
    assert str(tmp_path) not in text


def test_preview_is_a_picture(tmp_path, model):
    run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model)
    with Image.open(tmp_path / "out" / "preview.png") as image:
        assert (image.format, image.width) == ("PNG", 3 * 436)


def test_results_lie_beside_the_scan_by_default_and_its_name_keeps_them_apart(tmp_path, model):
    for name in ("a", "b"):
        run(save_scan(tmp_path / "scans" / f"{name}.nii.gz"), None, model)
    assert files_below(tmp_path / "scans")[:6] == [
        "a.nii.gz",
        "a_seg",
        "a_seg.nii.gz",
        "a_seg/preview.png",
        "a_seg/run.json",
        "a_seg/statistics.json",
    ]
    record = json.loads((tmp_path / "scans" / "a_seg" / "run.json").read_text())
    assert record["outputs"][0]["name"] == "../a_seg.nii.gz"
    assert run(tmp_path / "scans" / "a.nii.gz", None, model).status is Status.DONE


def test_masks_in_a_folder_are_not_taken_for_scans_when_it_is_segmented_again(tmp_path, model):
    scan = save_scan(tmp_path / "scans" / "a.nii.gz")
    run(scan, None, model)
    run(scan, tmp_path / "scans" / "out", model)
    assert [one.name for one in find_inputs([str(tmp_path / "scans")])] == ["a"]
    assert [one.name for one in find_inputs([str(tmp_path / "scans" / "*.nii.gz")])] == ["a"]


def test_second_scan_in_the_same_folder_does_not_replace_the_first_ones_statistics(tmp_path, model):
    out = tmp_path / "out"
    run(save_scan(tmp_path / "a.nii.gz"), out, model)
    before = (out / "statistics.json").read_bytes()
    result = run(save_scan(tmp_path / "b.nii.gz", phantom() // 2), out, model)
    assert (out / "statistics.json").read_bytes() == before
    assert (out / "b_seg.nii.gz").exists()
    assert files_below(out / "b_seg") == ["preview.png", "run.json", "statistics.json"]
    assert result.folder == out / "b_seg"
    assert run(tmp_path / "a.nii.gz", out, model).status is Status.DONE
    assert run(tmp_path / "b.nii.gz", out, model).status is Status.DONE


def test_case_is_done_again_when_its_input_settings_or_outputs_change_and_only_then(tmp_path, model):
    scan, out = save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out"
    assert run(scan, out, model).status is Status.NEW
    written = (out / "run.json").stat().st_mtime_ns
    assert run(scan, out, model).status is Status.DONE
    assert (out / "run.json").stat().st_mtime_ns == written

    (out / "scan_seg.nii.gz").write_bytes(b"altered")
    assert run(scan, out, model).status is Status.OUTPUT_ALTERED
    assert labels_in(out / "scan_seg.nii.gz").sum() == 216 + 4 * 48
    (out / "preview.png").unlink()
    assert run(scan, out, model).status is Status.OUTPUT_MISSING
    assert (out / "preview.png").exists()
    save_scan(scan, phantom()[::-1])
    assert run(scan, out, model).status is Status.INPUT_CHANGED
    assert run(scan, out, model, overlap=0.1).status is Status.SETTINGS_CHANGED
    save_tiny_model(model, network={"architecture": "unet", "settings": {"channels": [4, 4]}})
    assert run(scan, out, model, overlap=0.1).status is Status.WEIGHTS_CHANGED
    assert run(scan, out, model, overlap=0.1).status is Status.DONE


def test_file_that_is_no_longer_asked_for_does_not_stay_beside_a_new_mask(tmp_path, model):
    scan, out = save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out"
    run(scan, out, model)
    run(scan, out, model, preview=False)
    assert files_below(out) == ["run.json", "scan_seg.nii.gz", "statistics.json"]


def test_roi_subset_keeps_the_named_labels_alone(tmp_path, model):
    run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model, roi_subset=("bright",))
    segmentation = read_segmentation(tmp_path / "out" / "scan_seg.nii.gz")
    np.testing.assert_array_equal(segmentation.array, 4 * (phantom() == 280))
    assert segmentation.labels.names == {4: "bright"}
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text())["labels"]
    assert [row["name"] for row in rows] == ["bright"]


def test_crf_refines_the_scores_and_its_preset_is_recorded(tmp_path, model):
    speckled = np.maximum(phantom(), 99)  # by a hair background
    speckled[13, 4, 4] = 101  # by a hair labelled, all alone
    scan = save_scan(tmp_path / "scan.nii.gz", speckled)
    plain, refined = run(scan, tmp_path / "plain", model), run(scan, tmp_path / "refined", model, crf="common")
    assert plain.record.settings["crf"] is None
    assert refined.record.settings["crf"] == "common"
    assert run(scan, tmp_path / "auto", model, crf="auto").record.settings["crf"] == "mr"
    assert refined.record.key != plain.record.key
    before, after = (read_segmentation(tmp_path / name / "scan_seg.nii.gz").array for name in ("plain", "refined"))
    np.testing.assert_array_equal(np.argwhere(before != after), [[13, 4, 4]])
    assert after[13, 4, 4] == 0


def test_unknown_crf_preset_is_refused_before_any_scan_is_read(model):
    with pytest.raises(ConfigError, match="'strong'; there are: deeplab-v1"):
        Predictor(PredictConfig(model=str(model), crf="strong"), device="cpu")


def test_unknown_roi_is_refused_before_any_scan_is_read(model):
    with pytest.raises(ConfigError, match=r"'liver'.*dim, bright"):
        Predictor(PredictConfig(model=str(model), roi_subset=("liver",)), device="cpu")


def test_a_compiled_run_writes_the_same_labels_and_says_so_whether_or_not_it_could(tmp_path, model, monkeypatch):
    def refuse(network, *, dynamic):
        raise RuntimeError("no compiler")

    scan = save_scan(tmp_path / "scan.nii.gz")
    plain = run(scan, tmp_path / "plain", model)
    for compile_, code in ((lambda network, *, dynamic: network, "compiled"), (refuse, "not-compiled")):
        monkeypatch.setattr(torch, "compile", compile_)
        made = run(scan, tmp_path / code, model, compile=True)
        assert [finding.code for finding in made.record.findings] == [code]
        assert made.record.settings_sha256 == plain.record.settings_sha256
        labels = [labels_in(tmp_path / name / "scan_seg.nii.gz") for name in (code, "plain")]
        np.testing.assert_array_equal(*labels)


def test_the_memory_of_a_compiled_run_is_not_foreseen(model):
    with pytest.raises(ConfigError, match="leave --compile or --max-memory out"):
        Predictor(PredictConfig(model=str(model), compile=True, max_memory="8GB"), device="cpu")


def test_fast_drops_mirroring_and_overlap_and_says_that_labels_may_differ(tmp_path, model):
    record = run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model, fast=True).record
    assert [finding.code for finding in record.findings] == ["fast"]
    assert record.settings["windows"]["mirror_axes"] == []
    assert record.settings["windows"]["overlap"] == 0.25


def test_options_that_may_change_labels_are_named_in_one_finding(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    record = run(scan, tmp_path / "out", model, disable_tta=True, tiling="even", body_only=True).record
    assert [finding.code for finding in record.findings] == ["fast"]
    assert "--body-only, --tiling even" in record.findings[0].message
    assert record.settings["windows"]["tiling"] == "even"
    assert record.settings["windows"]["body_only"]
    assert labels_in(tmp_path / "out" / "scan_seg.nii.gz").any()


def test_scan_unlike_those_the_model_was_made_for_is_segmented_with_a_finding(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz", spacing_mm=(9, 9, 9))
    record = run(scan, tmp_path / "out", model).record
    assert [finding.code for finding in record.findings] == ["unlike-training-data"]


def test_scan_without_any_label_is_complete_with_a_finding(tmp_path, model):
    record = run(save_scan(tmp_path / "scan.nii.gz", phantom() // 10), tmp_path / "out", model).record
    assert [finding.code for finding in record.findings] == ["nothing-found"]
    assert not labels_in(tmp_path / "out" / "scan_seg.nii.gz").any()


def test_chosen_frame_of_a_4d_file_is_segmented(tmp_path, model):
    four = np.stack([phantom() // 10, phantom()], axis=-1)
    scan = save_scan(tmp_path / "scan.nii.gz", four)
    run(scan, tmp_path / "out", model, frame=1)
    assert labels_in(tmp_path / "out" / "scan_seg.nii.gz").sum() == 216 + 4 * 48
    with pytest.raises(InputError, match="--frame"):
        run(scan, tmp_path / "other", model)


def test_clean_up_removes_small_components_and_is_recorded(tmp_path, model):
    speckled = np.array(phantom())
    speckled[13, 4, 4] = 150
    scan = save_scan(tmp_path / "scan.nii.gz", speckled)
    plain = run(scan, tmp_path / "plain", model)
    clean = run(scan, tmp_path / "clean", model, components={"min_volume_mm3": 3, "labels": [1]})
    assert clean.record.key != plain.record.key
    before, after = (read_segmentation(tmp_path / name / "scan_seg.nii.gz").array for name in ("plain", "clean"))
    np.testing.assert_array_equal(np.argwhere(before != after), [[13, 4, 4]])
    assert after[13, 4, 4] == 0


def test_clean_up_of_a_label_that_the_model_lacks_is_refused_before_any_scan_is_read(model):
    with pytest.raises(ConfigError, match=r"components.labels: 7 is none"):
        Predictor(PredictConfig(model=str(model), components={"labels": (7,)}), device="cpu")
