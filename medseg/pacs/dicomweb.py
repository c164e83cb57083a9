"""DICOMweb: QIDO-RS finds, WADO-RS brings, STOW-RS stores."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import requests
import retrying
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from medseg.errors import ServerError
from medseg.pacs.client import Filters, Receive, RemoteSeries, is_uid
from medseg.pacs.server import Server

_TIMEOUT_S = (10, 120)  # to connect, and between two packets
_PAGE = 500
_AS_STORED = (("application/dicom", "*"),)
_REMEDIES = {401: "give --credentials or --user", 403: "ask its administrator for access", 404: "check the address"}


class WebClient:
    """A `Client` for a DICOMweb server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        session = requests.Session()
        session.trust_env = False  # else .netrc or REQUESTS_CA_BUNDLE could replace the credentials and the authorities
        if server.encrypted:
            server.tls.context()  # says in one line which files cannot be used
            session.verify = str(server.tls.ca) if server.tls.ca else True
            if server.tls.certificate is not None:
                own = (str(server.tls.certificate), str(server.tls.key or server.tls.certificate))
                session.cert = own
        if server.credentials is not None:
            session.auth = _Login(server)
        self._client = DICOMwebClient(server.url, session=session, timeout=_TIMEOUT_S)
        self._client.set_http_retry_params(retry=False)  # it would try again what no trying mends, such as TLS

    def studies(self, filters: Filters) -> tuple[str, ...]:
        """Study Instance UIDs, sorted."""
        asked = {keyword: text for keyword, text in filters.query.items() if text}
        answers = self._find(self._client.search_for_studies, "StudyInstanceUID", search_filters=asked)
        return tuple(sorted(uid for uid, answer in answers.items() if filters.match(answer)))

    def series(self, study: str) -> tuple[RemoteSeries, ...]:
        """All series of a study, sorted by UID."""
        answers = self._find(self._client.search_for_series, "SeriesInstanceUID", study_instance_uid=study)
        return tuple(
            sorted(RemoteSeries(study, uid, str(answer.get("Modality") or "")) for uid, answer in answers.items())
        )

    def instances(self, series: RemoteSeries) -> dict[str, str]:
        """SOP Instance UID to SOP Class UID of all that a series holds."""
        answers = self._find(
            self._client.search_for_instances,
            "SOPInstanceUID",
            study_instance_uid=series.study,
            series_instance_uid=series.series,
        )
        return {uid: str(answer.get("SOPClassUID") or "") for uid, answer in answers.items()}

    def fetch(self, series: RemoteSeries, instances: Mapping[str, str], receive: Receive) -> None:
        """Call `receive` with the content of every instance; one at a time is in memory."""
        with self._told("sent no series that can be read"):
            found = self._client.iter_series(series.study, series.series, media_types=_AS_STORED)
            for data in found:
                buffer = io.BytesIO()
                pydicom.dcmwrite(buffer, data, enforce_file_format=True)
                receive(buffer.getvalue())

    def store(self, paths: Sequence[Path]) -> None:
        """Send files, each in a request of its own, and see that the server says that it has it."""
        for done, path in enumerate(paths):
            with self._told(f"stored {done} of {len(paths)} files"):
                data = pydicom.dcmread(path)
                answer = self._client.store_instances([data])
                stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
                if answer.get("FailedSOPSequence") or str(data.SOPInstanceUID) not in stored:
                    raise ServerError(
                        f"{self._server.url}: did not store {path} ({done} of {len(paths)} files stored); look into the"
                        " server's log."
                    )

    def _find(self, search: Callable[..., list[dict[str, Any]]], key: str, **query: Any) -> dict[str, Dataset]:
        """Answers by UID. Pages are asked for until one brings nothing new: not every server knows pages."""
        found: dict[str, Dataset] = {}
        while True:
            with self._told("gave no answer that can be read"):
                page = [Dataset.from_json(item) for item in search(**query, limit=_PAGE, offset=len(found))]
                new = {str(item.get(key) or ""): item for item in page}
            before = len(found)
            found |= {uid: item for uid, item in new.items() if is_uid(uid)}
            if len(found) == before:
                return found

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn what the libraries raise into one line without the request, which may name a patient."""
        url = self._server.url
        try:
            yield
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            remedy = _REMEDIES.get(code, "look into the server's log")
            raise ServerError(f"{url}: answered {code}; {remedy}.") from None
        except requests.exceptions.SSLError:
            raise ServerError(
                f"{url}: no TLS connection; check that --ca names who signed its certificate, and --cert where it"
                " asks for ours."
            ) from None
        except requests.Timeout:
            raise ServerError(f"{url}: did not answer in time; try again.") from None
        except requests.ConnectionError:
            raise ServerError(f"{url}: cannot be reached, or broke off; check address, port and network.") from None
        except (requests.RequestException, retrying.RetryError):
            raise ServerError(f"{url}: {doing}; try again, and look into the server's log.") from None
        except (InvalidDicomError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerError(f"{url}: {doing} ({type(error).__name__}); is this a DICOMweb service?") from None


class _Login(requests.auth.AuthBase):
    """Puts the credentials into each request; unlike a header of the session it does not follow to another host."""

    def __init__(self, server: Server) -> None:
        assert server.credentials is not None
        self._credentials = server.credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._credentials.token:
            request.headers["Authorization"] = f"Bearer {self._credentials.token}"
            return request
        user, password = self._credentials.user.encode(), self._credentials.password.encode()
        return requests.auth.HTTPBasicAuth(user, password)(request)
