"""What was done, and whether it still stands: the record beside every result, and a lock for making it.

run.json is written last, so its presence says that a case is complete. A case counts as done only if the record's key
(input, weights, settings, version) is the one wanted now and every file that it lists is there with the same SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.errors import InputError, ResourceError
from medseg.study import Finding

if sys.platform != "win32":  # Windows has no flock: two processes may do a case twice there, never half
    import fcntl

RECORD = "run.json"
SCHEMA = 1

_MASK_SUFFIX = re.compile(r"\.(nii(\.gz)?|dcm)$", re.IGNORECASE)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True)
class Identity:
    """All that decides what the outputs of a case will be.

    Attributes:
        input_sha256: Of the scan's files, as `sha256_of` gives it.
        weights_sha256: Of the model's weights.
        settings: Everything else that can change an output, as plain JSON values.
        version: medseg's.
    """

    input_sha256: str
    weights_sha256: str
    settings: dict[str, Any]
    version: str

    @property
    def settings_sha256(self) -> str:
        """SHA-256 over the settings as sorted JSON, in hexadecimal."""
        return _digest(self.settings)

    @property
    def key(self) -> str:
        """SHA-256 over all parts, in hexadecimal."""
        return _digest([self.input_sha256, self.weights_sha256, self.settings_sha256, self.version])


class Scan(_Part):
    """What was segmented: name, number of files and their SHA-256, grid, DICOM modality where it is known."""

    name: str
    files: int
    sha256: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    modality: str | None = None


class UsedModel(_Part):
    """What it was segmented with; the SHA-256 is that of the weights."""

    name: str
    version: str
    title: str
    licence: str
    sha256: str


class Stage(_Part):
    """A step of a case: seconds by the clock, and the process's peak memory until the step's end, in MiB."""

    name: str
    seconds: float
    peak_memory_mib: float | None = None
    peak_device_memory_mib: float | None = None


class Output(_Part):
    """A file that a case made: its path from the record's folder, its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


class Record(_Part):
    """run.json: how a result came about, without patient data.

    Attributes:
        key: Of `identity`.
        medseg: Version of this package.
        versions: Of Python and of the libraries that take part.
        settings: All that can change an output besides scan and weights.
        settings_sha256: Over the settings as sorted JSON.
        device: Where the network ran.
        findings: Doubts and repairs.
        stages: In the order of the work.
        outputs: Every file but the record itself.
    """

    schema_version: int = SCHEMA
    key: str
    medseg: str
    versions: dict[str, str]
    input: Scan
    model: UsedModel
    settings: dict[str, Any]
    settings_sha256: str
    device: str
    findings: tuple[Finding, ...] = ()
    stages: tuple[Stage, ...] = ()
    outputs: tuple[Output, ...]

    @property
    def identity(self) -> Identity:
        """What decided the outputs."""
        return Identity(self.input.sha256, self.model.sha256, self.settings, self.medseg)

    def to_json(self) -> str:
        """The text of run.json."""
        return self.model_dump_json(indent=2) + "\n"


class Status(StrEnum):
    """Whether a case is to be done, and why."""

    NEW = "new"
    DONE = "done"
    INPUT_CHANGED = "input changed"
    WEIGHTS_CHANGED = "weights changed"
    SETTINGS_CHANGED = "settings changed"
    VERSION_CHANGED = "medseg's version changed"
    OUTPUT_MISSING = "output missing"
    OUTPUT_ALTERED = "output altered"


def read_record(folder: Path) -> Record | None:
    """The record in a folder, or None if there is none that can be read."""
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def record_folder(mask: Path, preferred: Path) -> Path:
    """Where the record of a mask lies: in `preferred`, unless the record of another mask is there already.

    So no scan's statistics ever replace another's; the second scan's go to a folder named as its mask.
    """
    if not (preferred / RECORD).exists():
        return preferred
    record = read_record(preferred)
    names = [output.name for output in record.outputs] if record else []
    same = mask.resolve() in {(preferred / name).resolve() for name in names}
    return preferred if same else own_folder(mask)


def own_folder(mask: Path) -> Path:
    """A folder beside a mask that bears its name."""
    return mask.with_name(_MASK_SUFFIX.sub("", mask.name))


def status(folder: Path, wanted: Identity) -> Status:
    """Whether the case whose record lies in `folder` has to be done, and why."""
    record = read_record(folder)
    if record is None:
        return Status.NEW
    had = record.identity
    for changed, reason in (
        (had.input_sha256 != wanted.input_sha256, Status.INPUT_CHANGED),
        (had.weights_sha256 != wanted.weights_sha256, Status.WEIGHTS_CHANGED),
        (had.settings_sha256 != wanted.settings_sha256, Status.SETTINGS_CHANGED),
        (record.key != wanted.key, Status.VERSION_CHANGED),
    ):
        if changed:
            return reason
    for output in record.outputs:
        path = folder / output.name
        if not path.is_file():
            return Status.OUTPUT_MISSING
        if path.stat().st_size != output.bytes or sha256_of([path]) != output.sha256:
            return Status.OUTPUT_ALTERED
    return Status.DONE


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 of a file's content; of several files, that of their sorted hexadecimal sums, one a line.

    Names and order of the files play no part, so that a series which was moved or renamed is the same series.

    Raises:
        InputError: If a file cannot be read.
    """
    sums = []
    for path in paths:
        try:
            with path.open("rb") as file:
                sums.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(sums) == 1:
        return sums[0]
    return hashlib.sha256("".join(f"{sum_}\n" for sum_ in sorted(sums)).encode()).hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def present(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those that were missing are removed again if they are empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()


@contextmanager
def locked(output: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on an output, among all processes that ask for it; the kernel frees it on any death.

    Args:
        output: What is about to be made; its folder is made, and removed again if nothing comes of it.
        wait: Whether to wait while another process has the lock.

    Yields:
        Whether the lock is held; only ever False without `wait`.

    Raises:
        ResourceError: If the folder cannot be made or written.
    """
    lock = output.with_name(f".{output.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(present(output.parent))
            file = _open_locked(lock, wait=wait)
        except OSError as error:
            text = f"{output.parent}: cannot be written ({error.strerror}); choose another output."
            raise ResourceError(text) from None
        try:
            yield file is not None
        finally:
            if file is not None:
                lock.unlink(missing_ok=True)
                os.close(file)


def _open_locked(lock: Path, *, wait: bool) -> int | None:
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another process that had made the folder has just removed it
            lock.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                os.close(file)
                raise
            return file  # a file system without locks
        # Who held the lock before has removed its file; a lock on a removed file keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), lock.stat()):
                return file
        os.close(file)
