"""The README's commands with a real server, worker and deployments."""

import json
import re
import sys
import urllib.error

import pytest

pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of flows in /proc")

from tests.tiny import files_below  # noqa: E402

RUN_S = 600


def run_of(said: str) -> str:
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)[0]


def test_readme_commands_segment_a_study_once_for_all_who_ask(installation, commands):
    ours = [line.replace("/data", str(installation.folder)) for line in commands]
    runs = [run_of(installation.do(line)) for line in ours if "submit" in line or "deployment run" in line]
    assert installation.all_ended(runs, RUN_S) == ["COMPLETED"] * 3
    assert "scan/scan_seg.nii.gz" in files_below(installation.results)
    assert installation.log("worker").count("Scan 1: new.") <= 1  # whoever came first; the archive's run may have


@pytest.mark.parametrize(
    "wrong",
    [
        {"studdy": "x"},
        {"frame": -1},
        {"settings": {"overlap": 2}},
        {"settings": {"model": 3}},
        {"pacs": {"server": "ftp://pacs"}},
        {"pacs": {"server": "https://pacs/dicom-web", "push": True}},
    ],
)
def test_bad_parameters_are_refused_when_a_run_is_submitted(installation, wrong):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        installation.run("segment-study/local", **{"study": "x", "output": "y"} | wrong)
    assert refusal.value.code in (409, 422)
    assert "alidation" in refusal.value.read().decode()


def test_limits_schedules_and_automation_are_as_documented(installation):
    deployments = {one["name"]: one for one in installation.api("POST", "/deployments/filter", {})}
    nightly = deployments["nightly"]
    assert nightly["schedules"][0]["schedule"] == {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "day_or": True}
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployments["gpu"]["work_pool_name"] == "medseg-gpu"
    assert installation.api("GET", "/work_pools/medseg-cpu")["concurrency_limit"] == 2
    (automation,) = installation.api("POST", "/automations/filter", {})
    assert "CRASHED" in json.dumps(automation["actions"])
