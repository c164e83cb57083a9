"""DIMSE: C-FIND finds, C-GET or C-MOVE brings, C-STORE stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_context, build_role, evt
from pynetdicom import AllStoragePresentationContexts as AllStorage
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as Get,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as Move,
)

from medseg.errors import MedsegError, ServerError
from medseg.pacs.client import Filters, Receive, RemoteSeries, is_uid
from medseg.pacs.server import Server

_CONNECT_S, _ANSWER_S = 10, 120
_CONTEXTS = 128  # in one association, by the standard
_SUCCESS, _PENDING, _OUT_OF_RESOURCES = 0x0000, (0xFF00, 0xFF01), 0xA700
_USER_AND_PASSWORD = 2

_config.LOG_HANDLER_LEVEL = "none"  # the library's own handlers would log data sets and identities


class DimseClient:
    """A `Client` for a DIMSE server; every call is an association of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._context = server.tls.context() if server.encrypted else None
        self._accepting = server.tls.context(accepting=True) if server.encrypted and server.listen else None

    def studies(self, filters: Filters) -> tuple[str, ...]:
        """Study Instance UIDs, sorted."""
        found = self._find("STUDY", filters.query)
        return _uids((answer for answer in found if filters.match(answer)), "StudyInstanceUID")

    def series(self, study: str) -> tuple[RemoteSeries, ...]:
        """All series of a study, sorted by UID."""
        found = self._find("SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": ""})
        modality = {str(answer.get("SeriesInstanceUID") or ""): str(answer.get("Modality") or "") for answer in found}
        return tuple(RemoteSeries(study, uid, modality[uid]) for uid in _uids(found, "SeriesInstanceUID"))

    def instances(self, series: RemoteSeries) -> dict[str, str]:
        """SOP Instance UID to SOP Class UID of all that a series holds."""
        asked = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.series}
        found = self._find("IMAGE", asked | {"SOPInstanceUID": "", "SOPClassUID": ""})
        classes = {str(answer.get("SOPInstanceUID") or ""): str(answer.get("SOPClassUID") or "") for answer in found}
        return {uid: classes[uid] for uid in _uids(found, "SOPInstanceUID")}

    def fetch(self, series: RemoteSeries, instances: Mapping[str, str], receive: Receive) -> None:
        """Call `receive` with the content of every instance, by C-MOVE where we listen and by C-GET elsewhere."""
        wanted = _identifier("SERIES", {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.series})
        kinds = sorted(set(instances.values()) - {""}) or [str(one.abstract_syntax) for one in AllStorage]
        failures: list[MedsegError] = []

        def store(event: Any) -> int:
            try:
                receive(event.encoded_dataset())
            except MedsegError as error:  # pynetdicom would log it and go on
                failures.append(error)
                return _OUT_OF_RESOURCES
            return _SUCCESS

        handlers = [(evt.EVT_C_STORE, store)]
        try:
            if self._server.listen is not None:
                self._move(wanted, kinds, handlers)
            else:
                self._get(wanted, kinds, handlers)
        except ServerError:
            if not failures:
                raise
        if failures:  # of ours; what the server says then is only their consequence
            raise failures[0]

    def store(self, paths: Sequence[Path]) -> None:
        """Send files in their own transfer syntax, and see that each is answered with success or a mere warning."""
        syntaxes: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for path in paths:
            meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
            syntaxes[str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)].append(path)
        done = 0
        pairs = iter(sorted(syntaxes))
        while batch := list(islice(pairs, _CONTEXTS)):
            with self._associated([build_context(*pair) for pair in batch]) as association:
                for path in (path for pair in batch for path in syntaxes[pair]):
                    self._send(association, path, f"{done} of {len(paths)} files stored")
                    done += 1

    def _send(self, association: Any, path: Path, so_far: str) -> None:
        try:
            status = association.send_c_store(pydicom.dcmread(path))
        except (ValueError, RuntimeError):  # no accepted context for it, or the association has ended
            raise ServerError(f"{self._server.url}: does not take the kind of {path} ({so_far}).") from None
        code = status.get("Status")
        if code is None or not (code == _SUCCESS or code >> 12 == 0xB):
            answer = "no answer" if code is None else f"status {code:04X}"
            raise ServerError(
                f"{self._server.url}: did not store {path}: {answer} ({so_far}); look into the server's log."
            )

    def _find(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        with self._associated([build_context(Find)]) as association:
            return self._answers(association.send_c_find(_identifier(level, keys), Find), "C-FIND")

    def _get(self, wanted: Dataset, kinds: Sequence[str], handlers: list[Any]) -> None:
        contexts = [build_context(Get), *_storage_contexts(kinds)]
        roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(one.abstract_syntax for one in contexts[1:])]
        with self._associated(contexts, roles, handlers) as association:
            self._answers(association.send_c_get(wanted, Get), "C-GET")

    def _move(self, wanted: Dataset, kinds: Sequence[str], handlers: list[Any]) -> None:
        assert self._server.listen is not None
        own = self._entity()
        own.require_called_aet = True
        own.require_calling_aet = [self._server.title]
        own.supported_contexts = [build_context(kind, ALL_TRANSFER_SYNTAXES) for kind in kinds]
        try:
            listener = own.start_server(
                self._server.listen, block=False, ssl_context=self._accepting, evt_handlers=handlers
            )
        except OSError as error:
            raise ServerError(f"--listen: the port cannot be used: {error.strerror}; choose another.") from None
        try:
            with self._associated([build_context(Move)]) as association:
                self._answers(association.send_c_move(wanted, self._server.own_title, Move), "C-MOVE")
        finally:
            listener.shutdown()

    def _answers(self, responses: Iterator[tuple[Dataset, Dataset | None]], what: str) -> list[Dataset]:
        """All answers of a request that has to end with success.

        Raises:
            ServerError: If it ends otherwise, with the number of what could not be sent.
        """
        found = []
        code = None
        for status, answer in responses:
            code = status.get("Status")
            if code not in _PENDING or what != "C-FIND":
                continue
            if answer is None:
                raise ServerError(f"{self._server.url}: sent an answer that cannot be read; look into its log.")
            found.append(answer)
        if code != _SUCCESS:
            failed = status.get("NumberOfFailedSuboperations")
            text = "no answer" if code is None else f"status {code:04X}"
            count = f", {failed} images not sent" if failed else ""
            other = "try --listen, or " if what == "C-GET" and code is not None else ""
            raise ServerError(f"{self._server.url}: {what} failed: {text}{count}; {other}look into the server's log.")
        return found

    def _entity(self) -> AE:
        entity = AE(ae_title=self._server.own_title)
        entity.connection_timeout = _CONNECT_S
        entity.acse_timeout = _CONNECT_S
        entity.dimse_timeout = _ANSWER_S
        entity.network_timeout = _ANSWER_S
        return entity

    @contextmanager
    def _associated(
        self, contexts: list[Any], roles: Sequence[Any] = (), handlers: list[Any] | None = None
    ) -> Iterator[Any]:
        server = self._server
        negotiated = [*roles, *self._identity()]
        association = self._entity().associate(
            server.host,
            server.port,
            contexts=contexts,
            ae_title=server.title,
            ext_neg=negotiated or None,
            tls_args=(self._context, server.host) if self._context else None,
            evt_handlers=handlers,
        )
        if not association.is_established:
            if association.is_rejected:
                reason = "refused the association; check the AE titles, and the credentials"
            elif server.encrypted:
                reason = "no association; check address, port, and that --ca, --cert and --key are those it expects"
            else:
                reason = "no association; check address and port, and whether it wants TLS (dicoms://)"
            raise ServerError(f"{server.url}: {reason}.")
        try:
            yield association
        except (ValueError, RuntimeError):  # the context that the request needs was not accepted, or it has ended
            raise ServerError(f"{server.url}: does not offer this service to us; ask its administrator.") from None
        finally:
            association.release()

    def _identity(self) -> list[Any]:
        if self._server.credentials is None:
            return []
        identity = UserIdentityNegotiation()
        identity.user_identity_type = _USER_AND_PASSWORD
        identity.primary_field = self._server.credentials.user.encode()
        identity.secondary_field = self._server.credentials.password.encode()
        return [identity]


def _storage_contexts(kinds: Sequence[str]) -> list[Any]:
    """What we take by C-GET: each syntax on its own where that fits, so that images come as they are stored."""
    room = _CONTEXTS - 1  # one is for C-GET
    if len(kinds) * len(ALL_TRANSFER_SYNTAXES) <= room:
        return [build_context(uid, syntax) for uid in kinds for syntax in ALL_TRANSFER_SYNTAXES]
    return [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in kinds[:room]]


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _uids(answers: Any, keyword: str) -> tuple[str, ...]:
    return tuple(sorted({uid for answer in answers if is_uid(uid := str(answer.get(keyword) or ""))}))
