"""What a PACS can be asked, whichever way it speaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medseg.errors import ConfigError
from medseg.opaque import opaque
from medseg.pacs.server import Server, needed, silence_libraries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Receive = Callable[[bytes], None]

KEY = ".medseg-key"  # in a folder of ours, the secret of its names: who shares the folder has the same names

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64
_DATE = re.compile(r"\d{8}(-\d{8})?")


@dataclass(frozen=True)
class Filters:
    """Which studies are meant; what is empty is not asked for. Values may identify a patient and are never shown.

    Attributes:
        study: Study Instance UID.
        patient_id: May hold the wildcards * and ?.
        accession: Accession number; may hold the wildcards.
        date: YYYYMMDD or YYYYMMDD-YYYYMMDD.
    """

    study: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    date: str = ""

    def __post_init__(self) -> None:
        if self.study:
            check_uid(self.study, "--study")
        if self.date and not _DATE.fullmatch(self.date):
            raise ConfigError("--date: write YYYYMMDD or YYYYMMDD-YYYYMMDD.")

    @property
    def query(self) -> dict[str, str]:
        """Every attribute of a query for studies, by keyword."""
        return {
            "StudyInstanceUID": self.study,
            "PatientID": self.patient_id,
            "AccessionNumber": self.accession,
            "StudyDate": self.date,
        }

    def match(self, answer: Dataset) -> bool:
        """Whether an answer is what was asked for: some servers leave out a condition that they do not know."""
        if self.date and (date := str(answer.get("StudyDate") or "")):
            first, _, last = self.date.partition("-")
            if not first <= date <= (last or first):
                return False
        told = {keyword: text for keyword, text in self.query.items() if text and keyword in answer}
        told.pop("StudyDate", None)
        found = ((str(answer.get(keyword) or "").strip(), text) for keyword, text in told.items())
        return all(fnmatchcase(value.casefold(), text.casefold().replace("[", "[[]")) for value, text in found)


@dataclass(frozen=True, order=True)
class RemoteSeries:
    """A series in a PACS.

    Attributes:
        study: Study Instance UID.
        series: Series Instance UID.
        modality: "CT", "MR", ...; empty where the server does not say.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    modality: str = ""

    def folder(self, key: bytes) -> Path:
        """Where its files lie below a folder of ours that has this secret: names that say nothing of the patient."""
        return Path(opaque(self.study, key)) / opaque(self.series, key)


class Client(Protocol):
    """A connection to a PACS. Every method raises `ServerError` if the server fails, refuses or cannot be reached."""

    def studies(self, filters: Filters) -> tuple[str, ...]:
        """Study Instance UIDs, sorted."""

    def series(self, study: str) -> tuple[RemoteSeries, ...]:
        """All series of a study, sorted by UID."""

    def instances(self, series: RemoteSeries) -> dict[str, str]:
        """SOP Instance UID to SOP Class UID of all that a series holds; the class is empty where it is not told."""

    def fetch(self, series: RemoteSeries, instances: Mapping[str, str], receive: Receive) -> None:
        """Call `receive` with the content of a DICOM file for each instance, in the syntax that the server has it."""

    def store(self, paths: Sequence[Path]) -> None:
        """Send DICOM files, one after another."""


def connect(server: Server) -> Client:
    """A client for a server; whether it answers shows with the first request.

    Raises:
        ConfigError: If the packages for it are not installed, or a TLS file cannot be used.
    """
    silence_libraries()
    with needed("pacs"):
        if server.web:
            from medseg.pacs.dicomweb import WebClient  # noqa: PLC0415 - an optional package

            return WebClient(server)
        from medseg.pacs.dimse import DimseClient  # noqa: PLC0415 - an optional package

        return DimseClient(server)


def check_uid(text: str, where: str) -> None:
    """Refuse what is no UID, before it becomes a part of an address.

    Raises:
        ConfigError: If it is none.
    """
    if len(text) > _UID_LENGTH or not _UID.fullmatch(text):
        raise ConfigError(f"{where}: not a UID; it has digits and dots only.")


def is_uid(text: str) -> bool:
    """Whether a server's answer can be used as a UID."""
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None
