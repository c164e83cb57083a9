"""Watching a PACS: what has come and is whole is pulled, segmented and pushed back, exactly once.

A study is stable when its series hold the same instances for some time. What was done with a series lies in
FOLDER/results/STUDY/SERIES/pacs.json, written when its masks are in the PACS; it names the instances by one keyed
hash, so that a series to which images were added later is done again. If the process dies between segmenting and
pushing, the masks that lie here are pushed by the next one; a PACS that has them already takes the same UIDs as the
same objects.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.atomic import write_text
from medseg.cases import Result
from medseg.errors import MedsegError, ModelError, ResourceError, ServerError
from medseg.locks import locked
from medseg.opaque import fingerprint, secret
from medseg.pacs.client import KEY, Client, Filters, RemoteSeries
from medseg.pacs.transfer import pull, push

RECORD = "pacs.json"
SCHEMA = 1

# Results and documents, our own among them: never segmented, and their coming does not make a study new.
NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "M3D"})

Segment = Callable[[Path, Path], Sequence[Result]]


class Outcome(StrEnum):
    """What became of a series."""

    PUSHED = "pushed"
    REFUSED = "refused"  # no model takes it
    FAILED = "failed"
    BUSY = "busy"  # another process does it
    CHANGED = "changed"  # images came while it was pulled
    RETRY = "retry"  # the PACS or the disk failed


_FINAL = {Outcome.PUSHED, Outcome.REFUSED, Outcome.FAILED}


class Done(BaseModel):
    """pacs.json: what was done with a series; no patient data.

    Attributes:
        instances: Opaque id of the SOP Instance UIDs, keyed so that nobody can find out whose they are by guessing.
        outcome: How it ended.
        masks: Files that were pushed, from the record's folder.
        messages: Why something was not segmented.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    instances: str
    outcome: Outcome
    masks: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened to a series.

    Attributes:
        series: Opaque ids of study and series.
        outcome: What.
        masks: What was pushed.
        messages: Why something was not.
    """

    series: Path
    outcome: Outcome
    masks: tuple[Path, ...] = ()
    messages: tuple[str, ...] = ()


class Watcher:
    """Does what is new in a PACS.

    Args:
        client: The PACS.
        folder: Pulled images (until their masks are pushed) and results.
        segment: Called with the folder of a series and the folder for its results.
        filters: Which studies.
        days: Studies of this many days before today, and of today; None for all.
        modalities: Which series; all where none is named.
        stable_s: Seconds without change after which a study is whole.
        keep_images: Whether pulled images stay.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        client: Client,
        folder: Path,
        segment: Segment,
        *,
        filters: Filters | None = None,
        days: int | None = None,
        modalities: Iterable[str] = (),
        stable_s: float = 60,
        keep_images: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._folder = folder
        self._key = secret(folder / KEY)
        self._segment = segment
        self._filters = filters or Filters()
        self._days = days
        self._modalities = frozenset(modalities)
        self._stable_s = stable_s
        self._keep_images = keep_images
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}  # study: what it held, and since when
        self.pending = 0

    def poll(self, say: Callable[[Event], None]) -> None:
        """Look once, and do what is stable; `pending` is then the number of studies that were left for later.

        Args:
            say: Called with each event as it happens.

        Raises:
            ServerError: If the PACS does not say which studies it has.
        """
        studies = self._client.studies(self._window())
        self._seen = {study: self._seen[study] for study in studies if study in self._seen}
        self.pending = 0
        for study in studies:
            try:
                ready = self._look(study)
            except ServerError as error:  # of this study; the others may be sound
                say(Event(RemoteSeries(study, "").folder(self._key).parent, Outcome.RETRY, messages=(str(error),)))
                ready = None
            events = [self._do(series, holds) for series, holds in (ready or {}).items()]
            for event in events:
                say(event)
            self.pending += ready is None or any(event.outcome not in _FINAL for event in events)

    def _window(self) -> Filters:
        if self._days is None:
            return self._filters
        today = date.today()
        first = today - timedelta(days=self._days)
        return replace(self._filters, date=f"{first:%Y%m%d}-{today:%Y%m%d}")

    def _look(self, study: str) -> dict[RemoteSeries, str] | None:
        """What is to be done of a study: series and the opaque id of what each holds; None while it is not stable."""
        found = {
            series: self._fingerprint(self._client.instances(series))
            for series in self._client.series(study)
            if series.modality not in NO_IMAGES
        }
        ready = {
            series: holds
            for series, holds in found.items()
            if (not self._modalities or series.modality in self._modalities) and not self._is_done(series, holds)
        }
        if not ready:
            return {}
        whole = self._fingerprint(found.values())
        now = self._clock()
        had, since = self._seen.get(study, ("", now))
        if had != whole:
            since = now
        self._seen[study] = (whole, since)
        return ready if now - since >= self._stable_s else None

    def _fingerprint(self, names: Iterable[str]) -> str:
        """One opaque id for names in any order."""
        return fingerprint("\n".join(sorted(names)), self._key)

    def _is_done(self, series: RemoteSeries, holds: str) -> bool:
        done = read_done(self._results(series))
        return done is not None and done.instances == holds

    def _results(self, series: RemoteSeries) -> Path:
        return self._folder / "results" / series.folder(self._key)

    def _do(self, series: RemoteSeries, holds: str) -> Event:
        results = self._results(series)
        with locked(results / RECORD, wait=False) as ours:
            if not ours:
                return Event(series.folder(self._key), Outcome.BUSY)
            if (done := read_done(results)) is not None and done.instances == holds:
                return Event(series.folder(self._key), done.outcome)  # another process has done it since we looked
            try:
                return self._do_locked(series, holds)
            except (ServerError, ResourceError) as error:
                return Event(series.folder(self._key), Outcome.RETRY, messages=(str(error),))

    def _do_locked(self, series: RemoteSeries, holds: str) -> Event:
        results = self._results(series)
        pulled = pull(self._client, series, self._folder / "images", self._key)
        if self._fingerprint(pulled.instances) != holds:
            return Event(series.folder(self._key), Outcome.CHANGED)
        masks, errors = self._masks(pulled.folder, results)
        for error in errors:
            if isinstance(error, ResourceError):
                raise error
        if masks:
            push(self._client, masks)
        refused = all(isinstance(error, ModelError) for error in errors)
        outcome = Outcome.PUSHED if refused and masks else Outcome.REFUSED if refused else Outcome.FAILED
        messages = tuple(_told(error) for error in errors)
        names = tuple(mask.relative_to(results).as_posix() for mask in masks)
        done = Done(instances=holds, outcome=outcome, masks=names, messages=messages)
        write_text(results / RECORD, done.model_dump_json(indent=2) + "\n")
        if not self._keep_images:
            shutil.rmtree(pulled.folder, ignore_errors=True)
        return Event(series.folder(self._key), outcome, masks, messages)

    def _masks(self, images: Path, results: Path) -> tuple[tuple[Path, ...], tuple[Exception, ...]]:
        try:
            made = self._segment(images, results)
        except MedsegError as error:  # nothing in it that could be a scan
            return (), (error,)
        masks = tuple(result.case.mask for result in made if result.error is None)
        return masks, tuple(result.error for result in made if result.error is not None)


def read_done(folder: Path) -> Done | None:
    """What was done with the series whose results lie in a folder; None if nothing was, or it cannot be read."""
    try:
        return Done.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def _told(error: Exception) -> str:
    """An error in one line; of a bug only the kind and the place, since its text may quote the scan's header."""
    if isinstance(error, MedsegError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"a bug: {type(error).__name__}{where}"
