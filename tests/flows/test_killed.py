"""What is killed goes on where it was: with a real server and worker, and PostgreSQL where that is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of flows in /proc")

from medseg.cases import plan_tree  # noqa: E402
from medseg.config import PredictConfig  # noqa: E402
from medseg.inputs import find_inputs  # noqa: E402
from medseg.triage import Action, Triage  # noqa: E402
from tests.flows.postgresql import programs  # noqa: E402
from tests.tiny import files_below, phantom, save_scan, save_tiny_model  # noqa: E402

STUDIES = 5
RUN_S = 600


def test_second_start_is_cancelled_and_what_flow_worker_and_server_left_is_done_once_by_two_runs(
    installation, tmp_path
):
    settings = PredictConfig(model=str(tmp_path / "tiny"), device="cpu", preview=False)
    save_tiny_model(tmp_path / "tiny")
    for number in range(STUDIES):
        save_scan(tmp_path / "in" / f"{number}.nii.gz", phantom() + number)
    request = {"root": str(tmp_path / "in"), "output": str(tmp_path / "out"), "settings": settings.model_dump()}
    installation.do("prefect --no-prompt deploy --all --prefect-file tests/flows/counted.yaml")
    starts = Path(installation.env["MEDSEG_TEST_STARTS"])
    starts.with_suffix(".hold").write_text("3")
    killed = installation.run("reprocess-studies/limited", **request)
    installation.wait(lambda: len(starts.read_text().splitlines()) == 3, RUN_S, lambda: installation.log("worker"))
    assert installation.ended(installation.run("reprocess-studies/limited", **request), RUN_S) == "CANCELLED"
    for name in ("server", "worker"):
        installation.kill(name)
    assert installation.kill_flows() == 1
    starts.with_suffix(".hold").unlink()
    installation.start_server()
    installation.start_worker()
    assert installation.state(killed) == "RUNNING"
    both = [installation.run("reprocess-studies/counted", **request) for _ in range(2)]
    assert installation.all_ended(both, RUN_S) == ["COMPLETED"] * 2
    cases = plan_tree(find_inputs([str(tmp_path / "in")], apart=False), tmp_path / "in", tmp_path / "out")
    assert {verdict.action for verdict in Triage(settings, verify=True).judge(cases)} == {Action.SKIP}
    done = [line.split()[1] for line in starts.read_text().splitlines()]
    assert len(set(done)) == STUDIES
    assert len(done) == STUDIES + 1  # the one that was in hand
    assert not [name for name in files_below(tmp_path / "out") if ".part" in name or name.endswith(".lock")]


def test_runs_are_kept_by_postgresql(installation):
    bin_ = programs()
    if bin_ is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    url = installation.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("+asyncpg", "")
    words = [str(bin_ / "psql"), url, "-Atc", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    known = installation.api("POST", "/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
    assert int(done) == known > 0
