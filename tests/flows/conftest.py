import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory) -> Path:
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
