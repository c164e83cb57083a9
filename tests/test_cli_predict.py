"""`medseg predict` as a user has it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg.case import Predictor
from medseg.options import prediction_settings
from medseg.settings import ComponentSettings
from tests.commands import medseg_command, process, refused
from tests.tiny import files_below, labels_in, phantom, save_scan


def test_predict_writes_four_files_and_names_model_and_mask(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    result = medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 0, result.output
    assert files_below(tmp_path / "out") == ["preview.png", "run.json", "scan_seg.nii.gz", "statistics.json"]
    assert labels_in(tmp_path / "out" / "scan_seg.nii.gz").shape == phantom().shape
    assert "scan_seg.nii.gz" in result.stdout
    assert "tiny 1.0.0" in result.stdout


def test_predict_report_is_one_page_with_volumes_findings_and_viewer(tmp_path, model):
    scan = save_scan(tmp_path / "DOE^JANE.nii.gz")
    result = medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model, "--report", "--fast")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "report.html").read_text()
    for part in ("dim", "Volume, ml", "--fast", "tiny 1.0.0", "Open viewer", "data:image/webp;base64"):
        assert part in page
    assert "JANE" not in page.partition("niivue-program")[0]
    listed = json.loads((tmp_path / "out" / "run.json").read_text())["outputs"]
    assert "report.html" in {output["name"] for output in listed}
    medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model)
    assert not (tmp_path / "out" / "report.html").exists()


def test_predict_takes_i_and_writes_beside_the_scan_by_default(tmp_path, model):
    scan = save_scan(tmp_path / "scans" / "scan.nii.gz")
    options = ("--model", model, "--no-preview", "--no-statistics", "--quiet")
    result = medseg_command("predict", "-i", scan, *options)
    assert (result.exit_code, result.output) == (0, "")
    assert files_below(tmp_path / "scans") == ["scan.nii.gz", "scan_seg", "scan_seg.nii.gz", "scan_seg/run.json"]


def test_predict_json_is_one_line_that_says_what_became_of_every_case(tmp_path, model):
    for name in "ab":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"\x5c\x01\x00\x00 torn")
    result = medseg_command("predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model, "--json")
    assert result.exit_code == 6
    (line,) = result.stdout.splitlines()
    content = json.loads(line)
    assert content["failed"] == 1
    good, bad = content["cases"]
    assert (good["name"], good["status"], Path(good["mask"]).is_file()) == ("a", "done", True)
    assert (bad["name"], bad["status"], bad["exit_code"]) == ("b", "failed", 3)


def test_batch_with_a_bad_case_completes_the_others_lists_it_and_ends_with_6(tmp_path, model):
    for name in "abc":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_bytes((tmp_path / "scans" / "a.nii.gz").read_bytes()[:80])
    result = medseg_command("predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 6
    failure, total = result.stderr.splitlines()
    assert failure.startswith("medseg: b: ")
    assert total == "medseg: 1 of 3 cases failed: b."
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]


def test_continued_prediction_skips_what_is_done_and_redoes_what_is_not(tmp_path, model):
    for name in "ab":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    command = ("predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model, "--json")
    medseg_command(*command)
    (tmp_path / "out" / "b" / "b_seg.nii.gz").unlink()
    cases = json.loads(medseg_command(*command, "--continue-prediction").stdout)["cases"]
    assert [(case["name"], case["status"], case.get("reason")) for case in cases] == [
        ("a", "skipped", None),
        ("b", "done", "output missing"),
    ]


def test_without_continue_prediction_everything_is_done_again(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    command = ("predict", scan, "-o", tmp_path / "out", "--model", model, "--json")
    medseg_command(*command)
    assert json.loads(medseg_command(*command).stdout)["cases"][0]["status"] == "done"


def test_settings_come_from_a_yaml_file_and_options_win(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "predict.yaml").write_text(f"model: {model}\noverlap: 0.3\npreview: false\nroi_subset: [dim]\n")
    result = medseg_command("predict", scan, "-o", tmp_path / "out", "--config", tmp_path / "predict.yaml", "--preview")
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert (settings["windows"]["overlap"], settings["preview"], settings["labels"]) == (0.3, True, {"1": "dim"})


def test_roi_subset_may_be_repeated_and_separated_by_commas(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    for options in (("--roi-subset", "dim,bright"), ("--roi-subset", "dim", "--roi-subset", "bright")):
        result = medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model, *options)
        assert result.exit_code == 0, result.output
        labels = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["labels"]
        assert labels == {"1": "dim", "4": "bright"}


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        ([], 2, ["No scan", "medseg predict --help"]),
        (["SCAN", "--no-such-option"], 2, ["--no-such-option", "medseg predict --help"]),
        (["SCAN", "--overlap", "1.5"], 2, ["--overlap"]),
        (["SCAN", "--model", "nowhere"], 2, ["nowhere", "neither a shipped model"]),
        (["SCAN", "--model", "MODEL", "--roi-subset", "liver"], 2, ["'liver'", "dim, bright"]),
        (["SCAN", "--model", "MODEL", "--output-type", "nrrd"], 2, ["'nrrd'", "available: nifti, dicom-seg"]),
        (["SCAN", "--model", "MODEL", "--output-type", "dicom-seg"], 2, ["DICOM slices", "nifti", "medseg convert"]),
        (["SCAN", "--model", "MODEL", "--device", "abacus"], 2, ["abacus", "cpu"]),
        (["SCAN", "--model", "MODEL", "--config", "missing.yaml"], 2, ["missing.yaml"]),
        (["missing.nii.gz", "--model", "MODEL"], 3, ["missing.nii.gz"]),
        (["nothing*.nii.gz", "--model", "MODEL"], 3, ["nothing*.nii.gz", "matches no scan"]),
        (["notes.txt", "--model", "MODEL"], 3, ["notes.txt"]),
        (["torn.nii.gz", "--model", "MODEL"], 3, ["torn.nii.gz"]),
        (["SCAN", "--model", "MODEL", "--frame", "3"], 3, ["scan.nii.gz", "frame"]),
        (["flat.nii", "--model", "MODEL"], 4, ["flat.nii", "singular"]),
    ],
)
def test_users_error_is_one_line_with_its_exit_code_and_nothing_is_written(tmp_path, model, options, code, parts):
    scan = save_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "torn.nii.gz").write_bytes(scan.read_bytes()[:200])
    header = bytearray(save_scan(tmp_path / "flat.nii").read_bytes())
    header[280:328] = bytes(48)  # a singular sform
    (tmp_path / "flat.nii").write_bytes(header)
    before = files_below(tmp_path)
    places = {"SCAN": scan, "MODEL": model}
    files = ("notes.txt", "torn.nii.gz", "flat.nii", "missing.nii.gz", "nothing*.nii.gz", "missing.yaml")
    arguments = [tmp_path / option if option in files else places.get(option, option) for option in options]
    refused(medseg_command("predict", *arguments, "-o", tmp_path / "out"), code, *parts)
    assert files_below(tmp_path) == before


def test_scan_that_no_shipped_model_takes_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.choice.shipped_models", dict)
    result = medseg_command("predict", save_scan(tmp_path / "scan.nii.gz"))
    refused(result, 2, "no shipped model takes this scan", "--model")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 5),
        (OSError(28, "No space left on device"), 5),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), 5),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), 5),
    ],
)
def test_memory_or_disk_that_runs_out_is_one_line_and_leaves_nothing(tmp_path, model, monkeypatch, error, code):
    monkeypatch.setattr("medseg.case.segment", lambda *args, **kwargs: (_ for _ in ()).throw(error))
    scan = save_scan(tmp_path / "scan.nii.gz")
    refused(medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model), code)
    assert not (tmp_path / "out").exists()


def test_bug_keeps_its_traceback_and_ends_with_1(tmp_path, model, monkeypatch):
    monkeypatch.setattr("medseg.case.segment", lambda *args, **kwargs: {}["bug"])
    scan = save_scan(tmp_path / "scan.nii.gz")
    result = medseg_command("predict", scan, "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 1
    assert isinstance(result.exception, KeyError)


def test_bug_in_one_case_of_a_batch_shows_its_traceback_and_the_others_are_done(tmp_path, model, monkeypatch):
    run = Predictor.run
    monkeypatch.setattr(
        Predictor, "run", lambda self, case, **k: {}["bug"] if case.input.name == "a" else run(self, case, **k)
    )
    for name in "ab":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    result = medseg_command("predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 6
    assert "Traceback" in result.stderr
    assert files_below(tmp_path / "out" / "b") == ["b_seg.nii.gz", "preview.png", "run.json", "statistics.json"]


def test_two_processes_at_once_do_a_case_once(tmp_path, model):
    scan = save_scan(tmp_path / "scan.nii.gz")
    command = ("predict", scan, "-o", tmp_path / "out", "--model", model, "--continue-prediction", "--json")
    both = [process(*command), process(*command)]
    outputs = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert sorted(json.loads(out)["cases"][0]["status"] for out, _ in outputs) == ["done", "skipped"]
    assert files_below(tmp_path / "out") == ["preview.png", "run.json", "scan_seg.nii.gz", "statistics.json"]


def process_at_work(tmp_path: Path, model: Path) -> subprocess.Popen:
    """A prediction that has begun its case and will not end it soon."""
    scan = save_scan(tmp_path / "scan.nii.gz", phantom().repeat(3, 0).repeat(3, 1).repeat(3, 2))
    one = process("predict", scan, "-o", tmp_path / "out", "--model", model, "--overlap", "0.9")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.*lock")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return one


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_ends_with_130_and_leaves_nothing(tmp_path, model):
    one = process_at_work(tmp_path, model)
    one.send_signal(signal.SIGINT)
    _, stderr = one.communicate(timeout=60)
    assert (one.returncode, stderr.strip()) == (130, "medseg: interrupted.")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_case_of_a_killed_process_is_done_by_the_next_one(tmp_path, model):
    one = process_at_work(tmp_path, model)
    one.kill()
    one.communicate(timeout=60)
    assert [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []
    command = ("predict", tmp_path / "scan.nii.gz", "-o", tmp_path / "out", "--model", model, "--overlap", "0")
    assert medseg_command(*command, "--continue-prediction").exit_code == 0
    assert files_below(tmp_path / "out") == ["preview.png", "run.json", "scan_seg.nii.gz", "statistics.json"]


def test_clean_up_options_win_over_the_configuration(tmp_path):
    config = tmp_path / "predict.yaml"
    config.write_text("components: {min_volume_mm3: 20, labels: [2]}\n")
    settings = prediction_settings(config, {"largest_component": True, "fill_holes": None, "min_volume": 5.0})
    assert settings.components == ComponentSettings(min_volume_mm3=5, keep_largest=True, labels=(2,))
    assert not prediction_settings(None, {"min_volume": None}).components.anything
