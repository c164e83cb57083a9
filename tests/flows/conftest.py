import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def prefect_server():
    """One server of Prefect's own for all tests; it takes long to start."""
    from prefect.testing.utilities import prefect_test_harness  # noqa: PLC0415 - the tests skip where it is missing

    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    with prefect_test_harness(server_startup_timeout=120):
        yield
