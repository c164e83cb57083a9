"""Which files a path holds, and how each begins. Nothing here knows a format."""

from __future__ import annotations

import glob
import os
import zlib
from pathlib import Path

from medseg.errors import InputError
from medseg.formats.base import shown

Skipped = list[tuple[Path, str]]

HEAD_BYTES = 1024  # enough for the magic of every format, DICOM's at byte 128 and NIfTI-1's at 344
GZIP_MAGIC = b"\x1f\x8b"


def expand(pattern: str) -> list[Path]:
    """The paths that a pattern names, sorted; the path itself where it exists or is no pattern.

    Raises:
        InputError: If a pattern matches nothing.
    """
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        return [Path(pattern)]  # one that does not exist gets its error from `walk`
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not matches:
        raise InputError(
            f"{shown(pattern)}: matches no scan; check the pattern, and quote it if the shell should not expand it."
        )
    return [Path(match) for match in matches]


def walk(path: Path) -> tuple[list[Path], Skipped]:
    """The regular files in a folder and below, sorted, or the one file; and what was passed over, with the reason.

    Links to folders are not followed.

    Raises:
        InputError: If the path does not exist, cannot be opened, or is neither file nor folder.
    """
    try:
        if path.is_file():
            return [path], []
        if not path.is_dir():
            found = "neither a file nor a folder" if os.path.lexists(path) else "no such file or folder"
            raise InputError(f"{shown(path)}: {found}; check the path.")
        next(path.iterdir(), None)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be opened ({error.strerror}); check its permissions.") from None
    files: list[Path] = []
    skipped: Skipped = []

    def pass_over(error: OSError) -> None:
        skipped.append((Path(error.filename), f"the folder cannot be opened ({error.strerror})"))

    for folder, subfolders, names in os.walk(path, onerror=pass_over):
        subfolders.sort()
        for file in (Path(folder, name) for name in sorted(names)):
            if file.name.startswith("."):
                skipped.append((file, "a hidden file"))
            elif not file.is_file():
                skipped.append((file, "not a regular file"))
            else:
                files.append(file)
    return files, skipped


def head(path: Path) -> bytes:
    """The first bytes of a file, inflated if it is gzip.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if not start.startswith(GZIP_MAGIC):
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, HEAD_BYTES)
    except zlib.error:
        return b""
