import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from medseg.errors import InputError, ResourceError
from medseg.ledger import (
    RECORD,
    Identity,
    Output,
    Record,
    Scan,
    Status,
    UsedModel,
    read_record,
    record_folder,
    sha256_of,
    status,
)
from medseg.locks import locked

IDENTITY = Identity("in" * 32, "we" * 32, {"overlap": 0.5, "labels": {"1": "liver"}}, "1.0")


def write_result(folder, identity=IDENTITY, mask="scan_seg.nii.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mask).write_bytes(b"mask")
    outputs = tuple(Output(name=mask, bytes=4, sha256=sha256_of([folder / mask])) for _ in range(1))
    record = Record(
        key=identity.key,
        medseg=identity.version,
        versions={},
        input=Scan(
            name="scan.nii.gz",
            files=1,
            sha256=identity.input_sha256,
            shape=(1, 1, 1),
            spacing_mm=(1, 1, 1),
            orientation="RAS",
        ),
        model=UsedModel(name="m", version="1", title="M", licence="x", sha256=identity.weights_sha256),
        settings=identity.settings,
        settings_sha256=identity.settings_sha256,
        device="cpu",
        outputs=outputs,
    )
    (folder / RECORD).write_text(record.to_json())
    return record


def test_record_comes_back_from_disk_as_it_was(tmp_path):
    assert read_record(tmp_path) is None
    record = write_result(tmp_path)
    assert read_record(tmp_path) == record
    assert record.identity == IDENTITY


def test_whole_and_unchanged_result_is_done(tmp_path):
    write_result(tmp_path)
    assert status(tmp_path, IDENTITY) is Status.DONE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_sha256": "x"}, Status.INPUT_CHANGED),
        ({"weights_sha256": "x"}, Status.WEIGHTS_CHANGED),
        ({"settings": {"overlap": 0.25, "labels": {"1": "liver"}}}, Status.SETTINGS_CHANGED),
        ({"version": "1.1"}, Status.VERSION_CHANGED),
    ],
)
def test_anything_that_decides_the_outputs_makes_a_result_stale_and_is_named(tmp_path, change, reason):
    write_result(tmp_path)
    assert status(tmp_path, replace(IDENTITY, **change)) is reason


def test_missing_and_altered_outputs_are_told_apart(tmp_path):
    write_result(tmp_path)
    (tmp_path / "scan_seg.nii.gz").write_bytes(b"mosk")
    assert status(tmp_path, IDENTITY) is Status.OUTPUT_ALTERED
    (tmp_path / "scan_seg.nii.gz").write_bytes(b"mask and more")
    assert status(tmp_path, IDENTITY) is Status.OUTPUT_ALTERED
    (tmp_path / "scan_seg.nii.gz").unlink()
    assert status(tmp_path, IDENTITY) is Status.OUTPUT_MISSING


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_record_that_cannot_be_read_counts_as_none(tmp_path, text):
    write_result(tmp_path)
    (tmp_path / RECORD).write_text(text)
    assert status(tmp_path, IDENTITY) is Status.NEW


def test_sum_of_one_file_is_what_sha256sum_prints(tmp_path):
    (tmp_path / "a").write_bytes(b"scan")
    assert sha256_of([tmp_path / "a"]) == hashlib.sha256(b"scan").hexdigest()


def test_sum_of_a_series_does_not_depend_on_names_and_order_but_on_every_byte(tmp_path):
    for name, content in {"a": b"1", "b": b"2", "c": b"1", "d": b"3"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert sha256_of([a, b]) == sha256_of([b, c])
    assert len({sha256_of(paths) for paths in ([a], [a, b], [a, c], [a, d], [a, b, c])}) == 5


def test_sum_of_a_missing_file_is_a_users_error(tmp_path):
    with pytest.raises(InputError, match="gone"):
        sha256_of([tmp_path / "gone"])


def test_record_of_another_mask_is_never_replaced(tmp_path):
    out = tmp_path / "out"
    assert record_folder(out / "scan_seg.nii.gz", out) == out
    write_result(out)
    assert record_folder(out / "scan_seg.nii.gz", out) == out
    assert record_folder(out / "other_seg.nii.gz", out) == out / "other_seg"
    (out / RECORD).write_text("somebody else's run.json")
    assert record_folder(out / "scan_seg.nii.gz", out) == out / "scan_seg"


def test_lock_keeps_others_out_and_leaves_nothing(tmp_path):
    output = tmp_path / "new" / "deep" / "scan_seg.nii.gz"
    with locked(output) as first:
        with locked(output, wait=False) as second:
            assert (first, second) == (True, False)
        with locked(output.with_name("other"), wait=False) as other:
            assert other
    with locked(output, wait=False) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_folder_in_which_something_was_made_stays(tmp_path):
    with locked(tmp_path / "out" / "a"):
        (tmp_path / "out" / "a").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from medseg.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with locked(tmp_path / "a", wait=False) as ours:
            assert not ours
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with locked(tmp_path / "a", wait=False) as ours:
            assert ours
    finally:
        process.kill()
        process.stdout.close()
        process.wait(10)
    assert list(tmp_path.iterdir()) == []


def test_output_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"), locked(tmp_path / "file" / "out" / "mask"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="cannot be written"), locked(tmp_path / "mask"):
        pass
