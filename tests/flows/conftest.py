import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from medseg.config import PredictConfig
from tests.flows.installation import ROOT, Installation
from tests.flows.postgresql import programs, running
from tests.tiny import save_tiny_model

SCAN = sorted((ROOT / "tests" / "data" / "hippocampus").glob("imagesTr/*.nii.gz"))[0]


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory) -> Iterator[Path]:
    """A new database of Prefect's, as its own harness makes it for the tests of the flows, which run within."""
    harness = pytest.importorskip("prefect.testing.utilities", reason="needs the extra: pip install 'medseg[flows]'")
    from prefect.settings import get_current_settings  # noqa: PLC0415 - the tests skip where it is missing

    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with harness.prefect_test_harness(server_startup_timeout=300):
        url = get_current_settings().server.database.connection_url.get_secret_value()
        copy = tmp_path_factory.mktemp("database") / "prefect.db"
        # A server that starts from a copy need not make all the tables again, which takes longer than all else.
        with closing(sqlite3.connect(url.partition("///")[2])) as ours, closing(sqlite3.connect(copy)) as theirs:
            ours.backup(theirs)
        yield copy


@pytest.fixture(scope="session")
def commands() -> list[str]:
    """The commands of the README's section, one a line, after those that install and set the environment."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## With Prefect\n")[2].partition("\n## ")[0]
    environment, commands = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[:2]
    assert "export PREFECT_API_URL" in environment
    return commands.splitlines()


@pytest.fixture(scope="session")
def installation(tmp_path_factory, migrated, commands) -> Iterator[Installation]:
    """All that the README has been told to set up, by its own words; over PostgreSQL where that is installed."""
    folder = tmp_path_factory.mktemp("prefect")
    with ExitStack() as stack:
        env = {"MEDSEG_TEST_STARTS": str(folder / "starts")}
        if programs():
            env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.enter_context(running())
        one = stack.enter_context(Installation(folder, **env))
        if not programs():
            shutil.copy(migrated, one.home / "prefect.db")
        (folder / "starts").touch()
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


@pytest.fixture
def settings(tmp_path) -> PredictConfig:
    """A model that takes the phantom; nothing is loaded of another test's."""
    from flows.segment_study import _runner  # noqa: PLC0415 - the tests skip where Prefect is missing

    _runner.cache_clear()
    save_tiny_model(tmp_path / "models" / "tiny")
    return PredictConfig(model=str(tmp_path / "models" / "tiny"), device="cpu", preview=False)
