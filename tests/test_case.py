import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

import medseg
import medseg.case
from medseg.case import Predictor, run_cases
from medseg.cases import plan_cases
from medseg.choice import fitting
from medseg.config import PredictConfig
from medseg.errors import ConfigError, InputError, ModelError, ResourceError
from medseg.formats import read_segmentation
from medseg.inputs import find_inputs
from medseg.ledger import Status
from medseg.model import Model, load_model
from tests.dicom_files import make, save
from tests.tiny import LABELS, Threshold, files_below, labels_in, phantom, save_scan, save_tiny_model


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A model on disk; what is loaded from it finds the labels of the phantom exactly."""
    save_tiny_model(tmp_path / "models" / "tiny")

    def load(folder: Path) -> Model:
        return replace(load_model(folder), network=Threshold())

    monkeypatch.setattr(medseg.case, "load_model", load)
    return tmp_path / "models" / "tiny"


def silent(done: int, total: int) -> None:
    pass


def run(scan: Path, output: Path | None, model: Path, *, frame: int | None = None, **settings):
    predictor = Predictor(PredictConfig(model=str(model), **settings), device="cpu", frame=frame)
    inputs = find_inputs([str(scan)], channels=predictor.channels)
    (case,) = plan_cases(inputs, output, predictor.settings.output_type)
    return predictor.run(case, progress=silent, skip_done=True)


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


def test_scan_that_does_not_fit_into_the_memory_allowed_is_refused_before_it_is_segmented(tmp_path, model, monkeypatch):
    monkeypatch.setattr("medseg.case.segment", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(ResourceError, match="--max-memory"):
        run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model, max_memory="20MB")


def test_scan_that_fits_into_the_memory_allowed_has_the_same_labels(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    for name, limit in (("free", None), ("fit", "100GB")):
        run(scan, tmp_path / name, model, max_memory=limit)
    assert (tmp_path / "free" / "scan_seg.nii.gz").read_bytes() == (tmp_path / "fit" / "scan_seg.nii.gz").read_bytes()


def test_predict_tries_a_scan_once_more_with_a_smaller_plan_when_memory_runs_out(tmp_path, model, monkeypatch):
    segment, tries = medseg.case.segment, []

    def scarce(volume, model, **how):
        tries.append((model.windows.mirror_axes, how["spill"]))
        if len(tries) == 1:
            raise MemoryError
        return segment(volume, model, **how)

    monkeypatch.setattr("medseg.case.segment", scarce)
    predictor = Predictor(PredictConfig(model=str(model), preview=False), device="cpu")
    cases = plan_cases(find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))]), tmp_path / "out", "nifti")
    (result,) = run_cases(cases, predictor, progress=lambda case: lambda done, total: None)
    assert result.error is None
    assert tries == [((0,), False), ((), True)]
    assert "less-memory" in [finding.code for finding in result.record.findings]


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


@pytest.mark.parametrize("where", ["medseg.case.segment", "medseg.publish.preview", "medseg.publish.statistics"])
def test_case_that_fails_at_any_step_leaves_nothing_behind(tmp_path, model, monkeypatch, where):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(where, fail)
    scan = save_scan(tmp_path / "scans" / "scan.nii.gz")
    for output in (tmp_path / "out" / "deep", tmp_path / "out" / "mask.nii.gz", None):
        with pytest.raises(MemoryError):
            run(scan, output, model)
    assert not (tmp_path / "out").exists()
    assert files_below(tmp_path / "scans") == ["scan.nii.gz"]


def test_failed_repetition_leaves_the_earlier_result_whole(tmp_path, model, monkeypatch):
    scan, out = save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out"
    run(scan, out, model)
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    with monkeypatch.context() as patch:
        patch.setattr("medseg.publish.preview", lambda *args: (_ for _ in ()).throw(OSError("boom")))
        with pytest.raises(OSError, match="boom"):
            run(scan, out, model, overlap=0.1)
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before
    assert run(scan, out, model).status is Status.DONE


def test_bad_case_does_not_stop_the_others_and_the_model_is_loaded_once(tmp_path, model, monkeypatch):
    loaded = []
    load = medseg.case.load_model
    monkeypatch.setattr(medseg.case, "load_model", lambda folder: loaded.append(folder) or load(folder))
    for name in "abc":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"\x1f\x8bnot really")
    cases = plan_cases(find_inputs([str(tmp_path / "scans")]), tmp_path / "out")
    predictor = Predictor(PredictConfig(model=str(model)), device="cpu")
    results = list(run_cases(cases, predictor, progress=lambda case: silent))
    assert [(result.case.input.name, type(result.error)) for result in results] == [
        ("a", type(None)),
        ("b", InputError),
        ("c", type(None)),
    ]
    assert len(loaded) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]


def test_memory_that_runs_out_in_one_case_is_its_resource_error(tmp_path, model, monkeypatch):
    monkeypatch.setattr(medseg.case, "segment", lambda *args, **kwargs: np.zeros(1 << 57))
    cases = plan_cases(find_inputs([str(save_scan(tmp_path / "a.nii.gz"))]), tmp_path / "out")
    predictor = Predictor(PredictConfig(model=str(model)), device="cpu")
    (result,) = run_cases(cases, predictor, progress=lambda case: silent)
    assert isinstance(result.error, ResourceError)


def test_case_that_another_process_does_comes_last_and_is_not_done_twice(tmp_path, model):
    for name in "ab":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    cases = plan_cases(find_inputs([str(tmp_path / "scans")]), tmp_path / "out")

    class Busy(Predictor):
        """Finds the first case taken once, and done when it comes back to it."""

        def run(self, case, *, progress, skip_done=False, wait=True):
            if case.input.name == "a" and not wait:
                super().run(case, progress=progress)
                return None
            return super().run(case, progress=progress, skip_done=skip_done, wait=wait)

    predictor = Busy(PredictConfig(model=str(model)), device="cpu")
    results = list(run_cases(cases, predictor, progress=lambda case: silent, skip_done=True))
    assert [(result.case.input.name, result.status) for result in results] == [("b", Status.NEW), ("a", Status.DONE)]


def shipped(monkeypatch, *folders: Path) -> None:
    monkeypatch.setattr("medseg.choice.shipped_models", lambda: {folder.name: folder for folder in folders})


def test_the_only_shipped_model_that_takes_the_scan_is_chosen(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "small")
    save_tiny_model(tmp_path / "large", accepts={"field_of_view_mm": [150, 900]})
    shipped(monkeypatch, tmp_path / "small", tmp_path / "large")
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    assert fitting(scan, PredictConfig()).info.name == "small"
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz", spacing_mm=(20, 20, 20)))])
    assert fitting(scan, PredictConfig()).info.name == "large"


def test_models_are_listed_with_the_reason_when_none_or_several_take_the_scan(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "one")
    save_tiny_model(tmp_path / "two", accepts={"dimensions": 2})
    shipped(monkeypatch, tmp_path / "one", tmp_path / "two")
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz", spacing_mm=(20, 20, 20)))])
    with pytest.raises(ModelError, match=r"one takes a field of view.*two takes single images.*--model"):
        fitting(scan, PredictConfig())
    monkeypatch.setattr("medseg.choice.shipped_models", lambda: {"a": tmp_path / "one", "b": tmp_path / "one"})
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    with pytest.raises(ModelError, match="several models take this scan: one, one; choose one with --model"):
        fitting(scan, PredictConfig())


def dicom_scan(folder: Path) -> Path:
    """The phantom as a DICOM series; its voxels are 0.5 × 1.5 × 4 mm."""
    voxels = phantom().transpose(2, 1, 0).astype(np.uint16)
    return save(folder, *(make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(len(voxels))))


MASKS = {"dicom-seg": "ct_seg.dcm", "dicom-seg-binary": "ct_seg.dcm", "dicom-rtstruct": "ct_rtstruct.dcm"}


@pytest.mark.parametrize("output_type", list(MASKS))
def test_mask_of_a_dicom_series_is_a_dicom_object_with_the_models_name(tmp_path, model, output_type):
    scan = dicom_scan(tmp_path / "ct")
    result = run(scan, tmp_path / "out", model, output_type=output_type)
    mask = tmp_path / "out" / MASKS[output_type]
    assert files_below(tmp_path / "out") == sorted([mask.name, "preview.png", "run.json", "statistics.json"])
    array = read_segmentation(mask, onto=medseg.read(scan).geometry).array
    np.testing.assert_array_equal(array, (phantom() == 150) + 4 * (phantom() == 280))
    assert "Segmentation by tiny" in str(pydicom.dcmread(mask).SeriesDescription)
    assert result.record.settings["output_type"] == output_type
    assert run(scan, tmp_path / "out", model, output_type=output_type).status is Status.DONE
    assert run(scan, tmp_path / "out", model).status is Status.NEW  # the other mask's record stays its own
    assert mask.exists()


def test_dicom_mask_beside_its_series_or_as_a_file_has_its_own_folder(tmp_path, model):
    scan = dicom_scan(tmp_path / "ct")
    run(scan, None, model, output_type="dicom-seg", preview=False)
    assert (tmp_path / "ct_seg.dcm").is_file()
    assert files_below(tmp_path / "ct_seg") == ["run.json", "statistics.json"]
    run(scan, tmp_path / "plan.dcm", model, output_type="dicom-rtstruct", preview=False)
    assert files_below(tmp_path / "plan") == ["run.json", "statistics.json"]


def test_label_that_was_not_found_is_a_finding_of_a_dicom_mask(tmp_path, model):
    scan, settings = dicom_scan(tmp_path / "ct"), {"output_type": "dicom-seg", "roi_subset": ("dim",)}
    record = run(scan, tmp_path / "out", model, **settings).record
    assert "empty-segments" not in [finding.code for finding in record.findings]
    voxels = np.where(phantom() == 280, 10, phantom()).transpose(2, 1, 0).astype(np.uint16)
    scan = save(tmp_path / "mr", *(make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(12)))
    record = run(scan, tmp_path / "out2", model, output_type="dicom-seg").record
    assert "empty-segments" in [finding.code for finding in record.findings]


def test_dicom_mask_of_a_scan_that_is_not_dicom_is_refused_before_it_is_segmented(tmp_path, model, monkeypatch):
    monkeypatch.setattr("medseg.case.segment", lambda *args, **kwargs: pytest.fail("was segmented"))
    with pytest.raises(ConfigError, match=r"scan\.nii\.gz: --output-type dicom-seg refers to the DICOM slices"):
        run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model, output_type="dicom-seg")


@pytest.mark.parametrize(("name", "output_type"), [("mask.nii.gz", "dicom-seg"), ("mask.dcm", "nifti")])
def test_ending_of_another_output_type_is_refused(tmp_path, name, output_type):
    inputs = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    with pytest.raises(ConfigError, match="give another ending"):
        plan_cases(inputs, tmp_path / name, output_type)


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


def test_next_scan_is_read_while_the_present_one_is_segmented(tmp_path, model, monkeypatch):
    for name in "abc":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    events = []
    read, run = medseg.case.read_input, medseg.case.segment

    def noted(one, **settings):
        events.append(("read", one.name, threading.current_thread() is threading.main_thread()))
        return read(one, **settings)

    monkeypatch.setattr(medseg.case, "read_input", noted)
    monkeypatch.setattr(
        medseg.case, "segment", lambda *given, **settings: events.append("segment") or run(*given, **settings)
    )
    predictor = Predictor(PredictConfig(model=str(model)), device="cpu")
    cases = plan_cases(find_inputs([str(tmp_path / "scans")]), tmp_path / "out")
    results = list(run_cases(cases, predictor, progress=lambda one: silent))
    assert [result.error is None for result in results] == [True, True, True]
    assert [event for event in events if event != "segment"] == [
        ("read", "a", True),
        ("read", "b", False),
        ("read", "c", False),
    ]
