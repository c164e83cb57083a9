from collections.abc import Iterator

import pytest

from tests.pacs.orthanc import PASSWORD, USER, Orthanc, running


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Iterator[Orthanc]:
    """A PACS without TLS and passwords."""
    with running(tmp_path_factory.mktemp("plain"), secure=False) as one:
        yield one


@pytest.fixture(scope="session")
def secure(tmp_path_factory) -> Iterator[Orthanc]:
    """A PACS that wants TLS, a password (DICOMweb) and a certificate (DIMSE)."""
    with running(tmp_path_factory.mktemp("secure"), secure=True) as one:
        yield one


@pytest.fixture
def credentials(tmp_path):
    path = tmp_path / "credentials.yaml"
    path.write_text(f'user: {USER}\npassword: "{PASSWORD}"\n', encoding="utf-8")
    path.chmod(0o600)
    return path
