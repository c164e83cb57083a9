"""DICOMDIR: an index of DICOM files, as it lies on a CD."""

from __future__ import annotations

from pathlib import Path

import pydicom

from medseg.errors import InputError
from medseg.formats.base import shown
from medseg.formats.dicom_elements import quiet
from medseg.formats.dicom_fields import text
from medseg.formats.dicom_header import SkippedFileError, guarded


def indexed_files(path: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files that a DICOMDIR lists, and those that are not there.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with quiet(), guarded():
            data = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            names = [_parts(record) for record in data.get("DirectoryRecordSequence", [])]
    except SkippedFileError:
        raise InputError(f"{shown(path)}: the DICOMDIR is damaged; give the folder instead.") from None
    found: dict[Path, None] = {}
    skipped: list[tuple[Path, str]] = []
    for parts in filter(None, names):
        file = _beside(path.parent, parts)
        if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
            skipped.append((path, "the DICOMDIR lists a file outside its folder"))
        elif file is None:
            skipped.append((path.parent.joinpath(*parts), "listed in the DICOMDIR, and not there"))
        else:
            found[file] = None
    return list(found), skipped


def _parts(record: pydicom.Dataset) -> list[str]:
    if not text(record, "ReferencedFileID"):
        return []
    value = record.ReferencedFileID
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _beside(folder: Path, parts: list[str]) -> Path | None:
    """The file, whatever case its name was copied in."""
    for part in parts:
        if not (folder / part).exists():
            matches = (
                [entry for entry in folder.iterdir() if entry.name.lower() == part.lower()] if folder.is_dir() else []
            )
            if not matches:
                return None
            folder = matches[0]
        else:
            folder /= part
    return folder if folder.is_file() and not folder.is_symlink() else None
