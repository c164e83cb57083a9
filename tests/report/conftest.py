from collections.abc import Iterator

import pytest

from tests.browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all tests of pages."""
    program = Browser(tmp_path_factory.mktemp("profile"))
    yield program
    program.close()
