import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def prefect_server():
    """One server of Prefect's own for all tests; it takes long to start."""
    harness = pytest.importorskip("prefect.testing.utilities", reason="needs the extra: pip install 'medseg[flows]'")
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with harness.prefect_test_harness(server_startup_timeout=120):
        yield
