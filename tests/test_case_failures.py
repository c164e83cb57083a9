"""Cases that fail, that are in hand elsewhere, or that need more memory than there is."""

import threading

import numpy as np
import pytest

import medseg
import medseg.case
from medseg.case import Predictor, run_cases
from medseg.cases import plan_cases
from medseg.config import PredictConfig
from medseg.errors import InputError, ResourceError
from medseg.inputs import find_inputs
from medseg.ledger import Status
from tests.one_case import run, silent
from tests.tiny import files_below, save_scan

pytestmark = pytest.mark.usefixtures("exact")


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
