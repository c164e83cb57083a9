"""The README's commands with a real server, worker and deployments; what is killed goes on where it was."""

import json
import re
import shutil
import sys
import urllib.error
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of flows in /proc")

from medseg.cases import plan_tree  # noqa: E402
from medseg.config import PredictConfig  # noqa: E402
from medseg.inputs import find_inputs  # noqa: E402
from medseg.triage import Action, Triage  # noqa: E402
from tests.flows.installation import ROOT, Installation  # noqa: E402
from tests.tiny import files_below, phantom, save_scan, save_tiny_model  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCAN = sorted((ROOT / "tests" / "data" / "hippocampus").glob("imagesTr/*.nii.gz"))[0]
STUDIES = 5
RUN_S = 600


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """The commands of the README's section, one a line, after those that install and set the environment."""
    section = README.partition("\n## With Prefect\n")[2].partition("\n## ")[0]
    environment, commands = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[:2]
    assert "export PREFECT_API_URL" in environment
    return commands.splitlines()


@pytest.fixture(scope="module")
def installation(tmp_path_factory, migrated, commands):
    """All that the README has been told to set up, by its own words."""
    folder = tmp_path_factory.mktemp("prefect")
    starts = folder / "starts"
    with Installation(folder, MEDSEG_TEST_STARTS=str(starts)) as one:
        starts.touch()
        shutil.copy(migrated, one.home / "prefect.db")
        one.scans.mkdir()
        shutil.copy(SCAN, one.scans / "scan.nii.gz")
        for command in commands:
            if "server start" in command:
                one.start_server()
            elif "worker start" in command:
                one.start("worker", command)
            elif "deployment run" not in command and "submit" not in command:
                one.do(command)
        yield one


def run_of(said: str) -> str:
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)[0]


def test_readme_commands_segment_a_study_once_for_all_who_ask(installation, commands):
    ours = [line.replace("/data", str(installation.folder)) for line in commands]
    runs = [run_of(installation.do(line)) for line in ours if "submit" in line or "deployment run" in line]
    assert [installation.ended(run, RUN_S) for run in runs] == ["COMPLETED"] * 3
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


def test_second_start_is_cancelled_and_a_batch_goes_on_after_flow_worker_and_server_were_killed(installation, tmp_path):
    settings = PredictConfig(model=str(tmp_path / "tiny"), device="cpu", preview=False)
    save_tiny_model(tmp_path / "tiny")
    for number in range(STUDIES):
        save_scan(tmp_path / "in" / f"{number}.nii.gz", phantom() + number)
    request = {"root": str(tmp_path / "in"), "output": str(tmp_path / "out"), "settings": settings.model_dump()}
    installation.do("prefect --no-prompt deploy --all --prefect-file tests/flows/counted.yaml")
    starts = Path(installation.env["MEDSEG_TEST_STARTS"])
    starts.with_suffix(".hold").write_text("3")
    killed = installation.run("reprocess-studies/limited", **request)
    installation.wait(lambda: len(starts.read_text().splitlines()) == 3, RUN_S, installation.log("worker"))
    assert installation.ended(installation.run("reprocess-studies/limited", **request), RUN_S) == "CANCELLED"
    for name in ("server", "worker"):
        installation.kill(name)
    assert installation.kill_flows() == 1
    starts.with_suffix(".hold").unlink()
    installation.start_server()
    installation.start_worker()
    assert installation.state(killed) == "RUNNING"
    again = installation.run("reprocess-studies/counted", **request)
    assert installation.ended(again, RUN_S) == "COMPLETED"
    cases = plan_tree(find_inputs([str(tmp_path / "in")], apart=False), tmp_path / "in", tmp_path / "out")
    assert {verdict.action for verdict in Triage(settings, verify=True).judge(cases)} == {Action.SKIP}
    done = [line.split()[1] for line in starts.read_text().splitlines()]
    assert len(set(done)) == STUDIES
    assert len(done) == STUDIES + 1  # the one that was in hand
    assert not [name for name in files_below(tmp_path / "out") if ".part" in name or name.endswith(".lock")]


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
