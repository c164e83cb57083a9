"""Series from a PACS into folders, and files from here to a PACS."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom

from medseg.atomic import atomic_path
from medseg.errors import InputError, ServerError
from medseg.locks import locked
from medseg.pacs.client import Client, RemoteSeries, opaque

_TIES = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
_META = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
_SUFFIX = ".dcm"


@dataclass(frozen=True)
class Pulled:
    """A series that is here.

    Attributes:
        folder: Of its files.
        instances: SOP Instance UIDs of all of them.
    """

    folder: Path
    instances: frozenset[str] = field(repr=False)


def pull(client: Client, series: RemoteSeries, folder: Path) -> Pulled:
    """Bring a series whole to `folder` / hash of its study / hash of the series, one file an instance.

    Files of the series that the server no longer has are removed.

    Raises:
        ServerError: If the server fails, sends what was not asked for, or not all of it; then what came stays.
        ResourceError: If the disk is full or the folder cannot be written.
    """
    target = folder / series.folder
    with locked(target):
        expected = client.instances(series)
        if not expected:
            raise ServerError(f"{target}: the server lists no instance of this series; is it still there?")
        received: set[str] = set()

        def receive(content: bytes) -> None:
            uid = _tied(content, series)
            with atomic_path(target / _file_name(uid)) as part:
                part.write_bytes(content)
            received.add(uid)

        client.fetch(series, expected, receive)
        missing = len(expected.keys() - received)
        if missing:
            raise ServerError(f"{target}: {missing} of {len(expected)} instances did not come; pull the series again.")
        names = {_file_name(uid) for uid in received}
        for path in target.glob(f"*{_SUFFIX}"):
            if path.name not in names:
                path.unlink()
    return Pulled(target, frozenset(received))


def is_here(client: Client, series: RemoteSeries, folder: Path) -> bool:
    """Whether `pull` has brought all instances that the server now lists, and no others are here.

    Raises:
        ServerError: If the server fails.
    """
    names = {_file_name(uid) for uid in client.instances(series)}
    return {path.name for path in (folder / series.folder).glob(f"*{_SUFFIX}")} == names


def push(client: Client, paths: Sequence[Path]) -> int:
    """Send DICOM files, and those in folders, to a PACS.

    Returns:
        The number of files.

    Raises:
        InputError: If a file that was named is missing or not DICOM, or a folder holds none; then nothing was sent.
        ServerError: If the server fails or does not store a file.
    """
    files = dicom_files(paths)
    client.store(files)
    return len(files)


def dicom_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The DICOM files that are named, or lie in a folder that is named; each once.

    Raises:
        InputError: If a file that was named is missing or not DICOM, or a folder holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file() and _storable(file)]
            if not inside:
                raise InputError(f"{path}: holds no DICOM file.")
            found.update(dict.fromkeys(inside))
        elif not path.is_file():
            raise InputError(f"{path}: does not exist.")
        elif not _storable(path):
            raise InputError(f"{path}: not a DICOM file; `medseg convert` turns labels into DICOM.")
        else:
            found[path] = None
    return tuple(found)


def _file_name(uid: str) -> str:
    return f"{opaque(uid)}{_SUFFIX}"


def _storable(path: Path) -> bool:
    try:
        if path.name.startswith(".") or not is_dicom(path):
            return False
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
    except (InvalidDicomError, ValueError, AttributeError):
        return False
    return all(keyword in meta for keyword in _META) and not path.name.upper().startswith("DICOMDIR")


def _tied(content: bytes, series: RemoteSeries) -> str:
    """The SOP Instance UID of a file that has to belong to a series: one of another patient must not slip in."""
    try:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=_TIES)
        study, own, instance = (str(header[keyword].value) for keyword in _TIES)
    except (InvalidDicomError, KeyError, ValueError, EOFError):
        raise ServerError(f"{series.folder}: the server sent an instance that cannot be read.") from None
    if (study, own) != (series.study, series.series):
        raise ServerError(f"{series.folder}: the server sent an instance of another series; ask its administrator.")
    return instance
