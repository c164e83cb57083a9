import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import Result

import medseg.case
from medseg.ledger import read_failure, read_record
from tests.commands import medseg_command, process
from tests.tiny import files_below, phantom, save_scan, save_tiny_model


def batch(tmp_path, model, *options, source="scans", output="out") -> Result:
    words = ("batch", tmp_path / source, tmp_path / output, "--model", model, "--no-preview", *options)
    return medseg_command(*words)


def verdicts(tmp_path, model, *options, **places) -> dict[str, tuple[str, str]]:
    result = batch(tmp_path, model, "--dry-run", "--json", *options, **places)
    assert result.exit_code == 0, result.output
    return {case["name"]: (case["action"], case["reason"]) for case in json.loads(result.stdout)["cases"]}


def save_scans(tmp_path, names="abc") -> None:
    for name in names:
        save_scan(tmp_path / "scans" / f"{name}.nii.gz", phantom() + ord(name) % 7)


def started(tmp_path, model, *options) -> subprocess.Popen:
    words = ("batch", tmp_path / "scans", tmp_path / "out", "--model", model, "--no-preview", "--json", *options)
    return process(*words, start_new_session=True)


def test_dry_run_says_run_skip_or_stale_with_the_reason_and_writes_nothing(tmp_path, model):
    save_scans(tmp_path, "abcdefg")
    assert verdicts(tmp_path, model) == dict.fromkeys("abcdefg", ("run", "new"))
    assert not (tmp_path / "out").exists()
    assert batch(tmp_path, model).exit_code == 0
    save_scan(tmp_path / "scans" / "b.nii.gz", phantom()[::-1])
    (tmp_path / "out" / "c" / "c_seg.nii.gz").unlink()
    (tmp_path / "out" / "d" / "statistics.json").write_text("{}")
    (tmp_path / "scans" / "e.nii.gz").touch()
    save_scans(tmp_path, "h")
    expected = dict.fromkeys("aefg", ("skip", "done")) | {
        "b": ("stale", "input changed"),
        "c": ("stale", "output missing"),
        "d": ("stale", "output altered"),
        "h": ("run", "new"),
    }
    assert verdicts(tmp_path, model) == expected
    assert {reason for _, reason in verdicts(tmp_path, model, "--overlap", "0").values()} >= {"settings changed"}
    text = batch(tmp_path, model, "--dry-run").stdout
    assert f"stale  {tmp_path / 'out' / 'b' / 'b_seg.nii.gz'}  (input changed)" in text
    assert text.splitlines()[-1] == "1 run, 4 skip, 3 stale"
    assert batch(tmp_path, model).exit_code == 0
    assert set(verdicts(tmp_path, model).values()) == {("skip", "done")}
    save_tiny_model(model, network={"architecture": "unet", "settings": {"channels": [4, 4]}})
    assert set(verdicts(tmp_path, model).values()) == {("stale", "weights changed")}


def test_change_that_keeps_size_and_time_is_seen_by_verify_alone(tmp_path, model):
    save_scans(tmp_path, "ab")
    batch(tmp_path, model)
    statistics = tmp_path / "out" / "a" / "statistics.json"
    before, text = statistics.stat(), statistics.read_text()
    statistics.write_text(text.replace("voxels", "vexels", 1))
    os.utime(statistics, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verdicts(tmp_path, model)["a"] == ("skip", "done")
    assert verdicts(tmp_path, model, "--verify") == {"a": ("stale", "output altered"), "b": ("skip", "done")}


def test_unchanged_batch_writes_nothing_and_does_not_import_torch(tmp_path, model):
    save_scans(tmp_path)
    batch(tmp_path, model)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    words = ["batch", str(tmp_path / "scans"), str(tmp_path / "out"), "--model", str(model), "--no-preview"]
    code = (
        "import sys, medseg.cli\n"
        f"try: medseg.cli.main({words!r})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["0 done, 3 unchanged, 0 failed, 0 failed before", "0 False"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_predict_and_batch_continue_each_other(tmp_path, model):
    save_scans(tmp_path, "ab")
    predict = ("predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model, "--no-preview")
    assert medseg_command(*predict).exit_code == 0
    assert set(verdicts(tmp_path, model).values()) == {("skip", "done")}
    result = medseg_command(*predict, "--continue-prediction", "--json")
    assert [case["status"] for case in json.loads(result.stdout)["cases"]] == ["skipped", "skipped"]


def test_results_keep_their_place_when_scans_of_the_same_name_come(tmp_path, model):
    save_scan(tmp_path / "scans" / "x" / "scan.nii.gz")
    batch(tmp_path, model)
    save_scan(tmp_path / "scans" / "y" / "scan.nii.gz")
    batch(tmp_path, model)
    assert sorted(path for path in files_below(tmp_path / "out") if path.endswith("run.json")) == [
        "x/scan/run.json",
        "y/scan/run.json",
    ]
    assert json.loads(batch(tmp_path, model, "--json").stdout)["unchanged"] == 2


def test_bad_study_is_recorded_with_its_reason_listed_and_left_alone_until_it_changes(tmp_path, model):
    save_scans(tmp_path)
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"\x1f\x8bnot really")
    first = batch(tmp_path, model)
    assert first.exit_code == 6
    failure = read_failure(tmp_path / "out" / "b")
    assert failure.kind == "InputError"
    assert f"medseg: b: {failure.error}" in first.stderr
    assert "1 of 3 studies have no result: b." in first.stderr.splitlines()[-1]
    assert verdicts(tmp_path, model)["b"] == ("skip", f"failed before: {failure.error}")
    second = batch(tmp_path, model, "--json")
    assert second.exit_code == 6
    assert json.loads(second.stdout) | {"cases": []} == {
        "cases": [],
        "done": 0,
        "unchanged": 2,
        "failed": 0,
        "failed_before": 1,
    }
    assert verdicts(tmp_path, model, "--retry-failed")["b"][0] == "run"
    assert json.loads(batch(tmp_path, model, "--json", "--retry-failed").stdout)["failed"] == 1
    save_scans(tmp_path, "b")
    assert verdicts(tmp_path, model)["b"] == ("run", "new")
    assert batch(tmp_path, model).exit_code == 0
    assert files_below(tmp_path / "out" / "b") == ["b_seg.nii.gz", "run.json", "statistics.json"]


def test_full_disk_ends_that_study_cleanly_and_it_is_tried_again(tmp_path, model, monkeypatch):
    save_scans(tmp_path)
    write = medseg.publish.write

    def full(segmentation, path):
        if "b_seg" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(segmentation, path)

    with monkeypatch.context() as patch:
        patch.setattr("medseg.publish.write", full)
        result = batch(tmp_path, model)
    assert result.exit_code == 6
    assert "b: " in result.stderr
    assert "disk is full" in result.stderr
    assert files_below(tmp_path / "out" / "b") == ["failed.json"]
    assert verdicts(tmp_path, model)["b"][0] == "run"
    assert batch(tmp_path, model).exit_code == 0


def short_of_memory(tries: list, times: int):
    segment = medseg.case.segment

    def scarce(volume, model, **kwargs):
        tries.append((model.windows.mirror_axes, kwargs["device"]))
        if len(tries) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return segment(volume, model, **kwargs)

    return scarce


def test_study_that_runs_out_of_memory_is_tried_once_more_with_a_smaller_plan_which_its_record_says(
    tmp_path, model, monkeypatch
):
    save_scans(tmp_path, "a")
    tries: list = []
    monkeypatch.setattr("medseg.case.segment", short_of_memory(tries, 1))
    assert batch(tmp_path, model, "--device", "cpu").exit_code == 0
    assert tries == [((0,), "cpu"), ((), "cpu")]
    assert "less-memory" in [finding.code for finding in read_record(tmp_path / "out" / "a").findings]
    assert verdicts(tmp_path, model)["a"] == ("skip", "done")


def test_study_without_memory_for_the_smaller_plan_either_has_failed_and_is_tried_again_the_next_time(
    tmp_path, model, monkeypatch
):
    save_scans(tmp_path, "ab")
    tries: list = []
    monkeypatch.setattr("medseg.case.segment", short_of_memory(tries, 2))
    assert batch(tmp_path, model).exit_code == 6
    assert len(tries) == 3
    assert read_failure(tmp_path / "out" / "a").transient
    assert (tmp_path / "out" / "b" / "run.json").exists()
    assert verdicts(tmp_path, model)["a"][0] == "run"


def test_model_is_loaded_once(tmp_path, model, monkeypatch):
    save_scans(tmp_path)
    loaded, load = [], medseg.case.load_model
    monkeypatch.setattr(medseg.case, "load_model", lambda folder: loaded.append(folder) or load(folder))
    assert batch(tmp_path, model).exit_code == 0
    assert len(loaded) == 1


def test_force_does_everything_again(tmp_path, model):
    save_scans(tmp_path, "ab")
    batch(tmp_path, model)
    assert json.loads(batch(tmp_path, model, "--force", "--json").stdout)["done"] == 2


def test_shards_share_the_studies_and_a_study_keeps_its_shard(tmp_path, model):
    save_scans(tmp_path, "abcdefgh")
    shards = [set(verdicts(tmp_path, model, "--shard", f"{number}/3")) for number in (1, 2, 3)]
    assert sum(map(len, shards)) == 8
    assert set.union(*shards) == set("abcdefgh")
    shutil.move(tmp_path / "scans", tmp_path / "moved")
    (tmp_path / "moved" / "a.nii.gz").unlink()
    assert set(verdicts(tmp_path, model, "--shard", "2/3", source="moved")) == shards[1] - {"a"}


@pytest.mark.parametrize("words", [("--shard", "0/3"), ("--shard", "4/3"), ("--shard", "x"), ("--jobs", "0")])
def test_wrong_shard_or_jobs_is_a_usage_error(tmp_path, model, words):
    save_scans(tmp_path, "a")
    assert batch(tmp_path, model, *words).exit_code == 2


def test_output_that_is_a_file_is_refused(tmp_path, model):
    save_scans(tmp_path, "a")
    (tmp_path / "out").touch()
    assert batch(tmp_path, model).exit_code == 2


def test_jobs_give_the_results_of_one_process_and_a_bad_study_stops_none(tmp_path, model):
    save_scans(tmp_path)
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"\x1f\x8bnot really")
    result = started(tmp_path, model, "--jobs", "2")
    stdout, stderr = result.communicate(timeout=120)
    assert result.returncode == 6, stderr
    assert json.loads(stdout)["done"] == 3
    assert batch(tmp_path, model, output="one").exit_code == 6
    masks = [hashlib.sha256((tmp_path / out / "a" / "a_seg.nii.gz").read_bytes()).hexdigest() for out in ("out", "one")]
    assert masks[0] == masks[1]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_four_processes_at_once_do_every_study_exactly_once(tmp_path, model):
    save_scans(tmp_path, "abcdefghij")
    four = [started(tmp_path, model) for _ in range(4)]
    outputs = [one.communicate(timeout=240) for one in four]
    assert [one.returncode for one in four] == [0] * 4, outputs
    cases = [case for stdout, _ in outputs for case in json.loads(stdout)["cases"]]
    assert Counter(case["name"] for case in cases if case["status"] == "done") == dict.fromkeys("abcdefghij", 1)
    assert not [path for path in files_below(tmp_path / "out") if re.search(r"lock$|part", path)]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_batch_leaves_nothing_partial_and_the_next_one_does_what_is_left(tmp_path, model, jobs):
    save_scans(tmp_path, "abcdefghijkl")
    killed = started(tmp_path, model, "--jobs", jobs, "--overlap", "0.7")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*/run.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    done = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/run.json")}
    assert 2 <= len(done) < 12
    assert set(verdicts(tmp_path, model, "--overlap", "0.7", "--verify").values()) == {("skip", "done"), ("run", "new")}
    result = batch(tmp_path, model, "--overlap", "0.7", "--json")
    assert json.loads(result.stdout)["done"] == 12 - len(done)
    after = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/run.json")}
    assert after.keys() == set("abcdefghijkl")
    assert after.items() >= done.items()
    assert not [path for path in files_below(tmp_path / "out") if re.search(r"lock$|part", path)]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the process by /proc")
def test_process_of_a_team_that_is_killed_takes_one_study_with_it_alone(tmp_path, model):
    save_scans(tmp_path, "abcdefgh")
    team = started(tmp_path, model, "--jobs", "2", "--overlap", "0.7")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*/.*lock")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [int(p) for p in Path(f"/proc/{team.pid}/task/{team.pid}/children").read_text().split()]
    worker = next(p for p in children if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(worker, signal.SIGKILL)
    stdout, stderr = team.communicate(timeout=120)
    content = json.loads(stdout)
    assert (team.returncode, content["done"], content["failed"]) == (6, 7, 1), stderr
    assert "died (exit code -9)" in stderr
    assert batch(tmp_path, model, "--overlap", "0.7").exit_code == 0
