from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes and types in the annotations of what computes on tensors are checked whenever a test runs it.
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float too
install_import_hook(["medseg.networks", "medseg.inference", "medseg.refine"], _CHECKER)

import medseg.case  # noqa: E402 - what the hook changes is imported after it
from medseg.model import Model, load_model  # noqa: E402
from tests.tiny import Threshold, save_tiny_model  # noqa: E402

# The same examples in every run, and no deadline: a busy machine is not a defect.
settings.register_profile("medseg", deadline=None, derandomize=True)
settings.register_profile("night", deadline=None, max_examples=20_000)
settings.load_profile("medseg")

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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of random weights on disk."""
    save_tiny_model(tmp_path / "models" / "tiny")
    return tmp_path / "models" / "tiny"


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `predict` loads from a model on disk finds the labels of the phantom exactly."""

    def load(folder: Path) -> Model:
        return replace(load_model(folder), network=Threshold())

    monkeypatch.setattr(medseg.case, "load_model", load)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Flows come last: Prefect, once it has run in a process, ends the workers that a data loader forks from it."""
    items.sort(key=lambda item: "flows" in item.path.relative_to(item.config.rootpath).parts)
