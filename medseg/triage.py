"""Which cases of many have to be done, and why, without importing torch or reading more than has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from medseg import __version__
from medseg.bundle import read_info, shipped_models
from medseg.cases import Case, identity_of
from medseg.choice import fitting, named
from medseg.config import PredictConfig
from medseg.errors import MedsegError
from medseg.ledger import (
    Record,
    Status,
    digest,
    read_failure,
    read_record,
    record_folder,
    sha256_of,
    stamp_of,
    status_of,
)
from medseg.study import DEFAULT_OPTIONS, ScanOptions


class Action(StrEnum):
    """What is to become of a case."""

    RUN = "run"
    STALE = "stale"
    SKIP = "skip"


@dataclass(frozen=True)
class Verdict:
    """What is to become of a case, and why.

    Attributes:
        case: Which.
        action: To do it, to do it again, or to leave it alone.
        reason: For people.
        failed: Whether it is left alone because nothing has changed since it failed.
    """

    case: Case
    action: Action
    reason: str
    failed: bool = False


class Triage:
    """Compares cases with their records.

    Args:
        settings: What the user asks for.
        frame: Which volume of a file that holds several.
        options: How the scans were looked for.
        force: Whether to do everything.
        retry_failed: Whether to do what has failed before and has not changed.
        verify: Whether to read all files, also those whose name, size and time of change are as recorded.
    """

    def __init__(
        self,
        settings: PredictConfig,
        *,
        frame: int | None = None,
        options: ScanOptions = DEFAULT_OPTIONS,
        force: bool = False,
        retry_failed: bool = False,
        verify: bool = False,
    ) -> None:
        self.settings = settings
        self.frame = frame
        self.options = options
        self._force, self._retry_failed, self._verify = force, retry_failed, verify
        self._named = named(settings)
        infos = [self._named.info] if self._named else [read_info(folder) for folder in shipped_models().values()]
        weights = [info.sha256 for info in infos]
        self._wanted = [
            settings.model_dump(mode="json", exclude={"device"}),
            frame,
            asdict(options),
            weights,
            __version__,
        ]

    @property
    def channels(self) -> int:
        """Channels of the model that was named; 1 where each scan finds its own."""
        return self._named.info.network.in_channels if self._named else 1

    def attempt(self, case: Case) -> str:
        """What a recorded failure of a case is the failure of: its files as they are, and what was to be done."""
        return digest([stamp_of(case.input.paths), *self._wanted])

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """Say of each case whether it has to be done."""
        for case in cases:
            yield self._judge(case)

    def _judge(self, case: Case) -> Verdict:
        if self._force:
            return Verdict(case, Action.RUN, "forced")
        folder = record_folder(case.mask, case.folder)
        record = read_record(folder)
        if record is not None and case.input.problem is None:
            status = self._status(case, record, folder)
            if status is Status.DONE:
                return Verdict(case, Action.SKIP, str(status))
        else:
            status = Status.NEW
        failure = read_failure(folder)
        if failure is not None and failure.key == self.attempt(case):
            if not (failure.transient or self._retry_failed):
                return Verdict(case, Action.SKIP, f"failed before: {failure.error}", failed=True)
            return Verdict(case, Action.RUN, f"failed before: {failure.error}")
        return Verdict(case, Action.RUN if status is Status.NEW else Action.STALE, str(status))

    def _status(self, case: Case, record: Record, folder: Path) -> Status:
        try:
            choice = self._named or fitting(case.input, self.settings)
            same = not self._verify and record.input.stamp == stamp_of(case.input.paths)
            sha256 = record.input.sha256 if same else sha256_of(case.input.paths)
        except MedsegError:  # which, the attempt tells
            return Status.INPUT_CHANGED
        return status_of(record, folder, identity_of(choice, self.frame, self.options, sha256), verify=self._verify)


def shard(cases: Sequence[Case], root: Path, number: int, shards: int) -> tuple[Case, ...]:
    """The share of one of several runs; a case stays in its shard when others come and go.

    Args:
        cases: Of all.
        root: Folder of the scans, whose own place plays no part.
        number: Which, from 1.
        shards: How many there are.
    """
    return tuple(case for case in cases if _number(case, root) % shards == number - 1)


def _number(case: Case, root: Path) -> int:
    first, top = case.input.paths[0].resolve(), root.resolve()
    place = first.relative_to(top) if first.is_relative_to(top) else first
    return int(hashlib.sha256(place.as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:15], 16)
