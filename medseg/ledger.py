"""What was done, and whether it still stands: the record beside every result, or beside the place where it failed.

run.json is written last, so its presence says that a case is complete. A case counts as done only if the record's key
(input, weights, settings, version) is the one wanted now and every file that it lists is there with the same SHA-256.
Where many cases are looked through, a file of the recorded name, size and time of change is taken for the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.atomic import write_text
from medseg.errors import InputError, MedsegError, ResourceError
from medseg.study import Finding

RECORD = "run.json"
FAILURE = "failed.json"
SCHEMA = 1

_MASK_SUFFIX = re.compile(r"\.(nii(\.gz)?|dcm)$", re.IGNORECASE)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


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
        return digest(self.settings)

    @property
    def key(self) -> str:
        """SHA-256 over all parts, in hexadecimal."""
        return digest([self.input_sha256, self.weights_sha256, self.settings_sha256, self.version])


class Scan(_Part):
    """What was segmented: name, number of files and their SHA-256, grid, DICOM modality where it is known.

    The stamp is `stamp_of` its files, taken before they were read.
    """

    name: str
    files: int
    sha256: str
    stamp: str | None = None
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
    """A file that a case made: its path from the record's folder, size, SHA-256, and when it was last changed."""

    name: str
    bytes: int
    sha256: str
    mtime_ns: int | None = None


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


class Failure(_Part):
    """failed.json: why a case has no result, beside where its record would be.

    Attributes:
        key: Of what was tried: scan, weights, settings, version.
        error: One line.
        kind: The exception's name.
        exit_code: What a command that fails so ends with.
        transient: Whether another try may succeed with nothing changed, as when the disk was full.
    """

    schema_version: int = SCHEMA
    key: str
    error: str
    kind: str
    exit_code: int
    transient: bool

    @classmethod
    def of(cls, error: Exception, key: str) -> Failure:
        """The failure that an exception means."""
        return cls(
            key=key,
            error=" ".join(str(error).split()) or type(error).__name__,
            kind=type(error).__name__,
            exit_code=error.exit_code if isinstance(error, MedsegError) else 1,
            transient=isinstance(error, ResourceError | OSError),
        )


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


def read_failure(folder: Path) -> Failure | None:
    """The failure that is recorded in a folder, or None if there is none that can be read."""
    try:
        return Failure.model_validate_json((folder / FAILURE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_failure(folder: Path, failure: Failure) -> None:
    """Record a failure; where the disk does not take even that, the run's own list has it."""
    with suppress(ResourceError, OSError):
        write_text(folder / FAILURE, failure.model_dump_json(indent=2) + "\n")


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


def status(folder: Path, wanted: Identity, *, verify: bool = True) -> Status:
    """Whether the case whose record lies in `folder` has to be done, and why.

    Args:
        folder: Of the record.
        wanted: What the outputs shall be.
        verify: Whether to read outputs whose size and time of change are as recorded, too.
    """
    record = read_record(folder)
    return Status.NEW if record is None else status_of(record, folder, wanted, verify=verify)


def status_of(record: Record, folder: Path, wanted: Identity, *, verify: bool) -> Status:
    """The same for a record that has been read."""
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
        try:
            found = path.stat()
        except OSError:
            return Status.OUTPUT_MISSING
        if found.st_size != output.bytes:
            return Status.OUTPUT_ALTERED
        if (verify or found.st_mtime_ns != output.mtime_ns) and sha256_of([path]) != output.sha256:
            return Status.OUTPUT_ALTERED
    return Status.DONE


def stamp_of(paths: Sequence[Path]) -> str | None:
    """SHA-256 over names, sizes and times of change, which change when a file does; None if a file is not there."""
    try:
        found = [(path.name, path.stat()) for path in paths]
    except OSError:
        return None
    return digest(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


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


def digest(value: object) -> str:
    """SHA-256 over plain values as sorted JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
