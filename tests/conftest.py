from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent


@pytest.fixture
def data() -> Path:
    """The small real scans that the repository carries."""
    return _TESTS / "data"


@pytest.fixture
def shared_data() -> Path:
    """The data folder beside the repository, which is too large to carry."""
    folder = _TESTS.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not beside this repository")
    return folder
