"""Zip and tar archives, unpacked into a temporary folder that ends with the process.

An archive is hostile until shown otherwise: nothing is written outside the folder, links, devices and nested archives
are passed over, and the number, the size and the ratio of what is unpacked are capped.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from medseg.errors import InputError, MedsegError, ResourceError
from medseg.formats.base import shown

MOST_MEMBERS = 100_000
MOST_RATIO = 200  # of the size of the archive, above a GiB that every archive may have
_FREE_BYTES = 2**30
_CHUNK_BYTES = 2**20
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Unpacked:
    """What an archive held.

    Attributes:
        folder: Where its files lie now.
        skipped: Members that were passed over, by their name in the archive, with the reason.
    """

    folder: Path
    skipped: tuple[tuple[Path, str], ...]


_known: dict[tuple[Path, int, int], Unpacked] = {}
_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def is_archive(path: Path, head: bytes) -> bool:
    """Whether a file is a zip or a tar, by its content; `head` is already inflated if it is gzip."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or head[257:262] == b"ustar":
        return True
    return head.startswith((b"BZh", b"\xfd7zXZ\0")) and path.suffix.lower() in (".bz2", ".xz", ".tbz2", ".txz")


def unpack(path: Path) -> Unpacked:
    """Unpack an archive, once for as long as it does not change.

    Raises:
        InputError: If it is damaged, encrypted, or beyond a cap.
        ResourceError: If the disk is full.
    """
    status = path.stat()
    key = (path.resolve(), status.st_size, status.st_mtime_ns)
    if key not in _known:
        temporary = tempfile.TemporaryDirectory(prefix="medseg-", ignore_cleanup_errors=True)
        _folders.append(temporary)
        folder = Path(temporary.name) / (path.name.split(".")[0] or "archive")
        folder.mkdir()
        try:
            skipped = _unpack(path, folder, status.st_size)
        except MedsegError:
            raise
        except Exception as error:  # the libraries raise whatever they like on damaged data
            if isinstance(error, OSError) and error.errno is not None:
                reason = f"cannot be unpacked to {folder.parent} ({error.strerror})"
                raise ResourceError(f"{shown(path)}: {reason}; make room there or unpack it yourself.") from None
            what = "encrypted" if "encrypted" in str(error) else "damaged, or of a kind that is not read"
            raise InputError(f"{shown(path)}: the archive is {what}; copy it again or unpack it.") from None
        _known[key] = Unpacked(folder, tuple(skipped))
    return _known[key]


def _unpack(path: Path, folder: Path, size: int) -> list[tuple[Path, str]]:
    skipped: list[tuple[Path, str]] = []
    budget = _FREE_BYTES + MOST_RATIO * size
    count = 0
    for name, trouble, stream in _members(path, budget):
        count += 1
        if count > MOST_MEMBERS:
            raise InputError(f"{shown(path)}: holds more than {MOST_MEMBERS} files; unpack it yourself.")
        target = _target(folder, name)
        if trouble or target is None:
            skipped.append((path / PurePosixPath(name.replace("\0", "?")).name, trouble or "leads out of the archive"))
            continue
        if target.exists():
            skipped.append((path / target.name, "a second file of the same name in the archive"))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                budget -= len(chunk)
                if budget < 0:
                    raise InputError(
                        f"{shown(path)}: unpacks to more than an archive of its size may; unpack it yourself."
                    )
                file.write(chunk)
    return skipped


def _target(folder: Path, name: str) -> Path | None:
    """Where a member goes; None if its name leads elsewhere."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    is_safe = parts and all(part not in ("..", "/") and ":" not in part and part.isprintable() for part in parts)
    return folder.joinpath(*parts) if is_safe and all(len(part.encode()) < 200 for part in parts) else None


def _members(path: Path, budget: int) -> Iterator[tuple[str, str, IO[bytes]]]:
    """Name, reason to pass it over, and content of every member that is not a folder."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    kind = info.external_attr >> 28 if info.create_system == 3 else 0
                    trouble = _trouble(info.filename, is_plain=kind in (0, 8))
                    with archive.open(info) as stream:
                        yield info.filename, trouble, stream
        return
    with _inflated(path) as content:
        capped: Any = _Capped(content, budget, path)
        tar = tarfile.open(fileobj=capped, mode="r|")  # noqa: SIM115 - a stream, which `content` closes
        for member in tar:
            if not member.isdir():
                stream_ = tar.extractfile(member) if member.isreg() else None
                trouble = _trouble(member.name, is_plain=stream_ is not None)
                yield member.name, trouble, stream_ or cast("IO[bytes]", None)


def _trouble(name: str, *, is_plain: bool) -> str:
    if not is_plain:
        return "a link or a device in an archive"
    is_scan = name.lower().endswith((".nii.gz", ".img.gz", ".hdr.gz"))
    return "an archive in an archive; unpack it" if name.lower().endswith(_ARCHIVES) and not is_scan else ""


@contextmanager
def _inflated(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        magic = file.read(6)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with openers.get(magic[:2], open)(path, "rb") as stream:
        yield cast("IO[bytes]", stream)


class _Capped:
    """A stream that ends in an error where it is longer than it may be; tar headers are read through it too."""

    def __init__(self, stream: IO[bytes], budget: int, path: Path) -> None:
        self._stream, self._budget, self._path = stream, budget + 2**20, path

    def read(self, count: int) -> bytes:
        content = self._stream.read(min(count, _CHUNK_BYTES))
        self._budget -= len(content)
        if self._budget < 0:
            raise InputError(
                f"{shown(self._path)}: unpacks to more than an archive of its size may; unpack it yourself."
            )
        return content


def remove_unpacked() -> None:
    """Remove what was unpacked, before the process ends."""
    for folder in _folders:
        shutil.rmtree(folder.name, ignore_errors=True)
    _folders.clear()
    _known.clear()
