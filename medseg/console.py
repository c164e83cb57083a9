"""What the commands show: progress, results, lists; for people and as plain values for --json."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from medseg.errors import MedsegError
from medseg.ledger import RECORD, Record, Status
from medseg.study import Series, Study

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from medseg.case import Progress
    from medseg.cases import Case, Result
    from medseg.report.cohort import Cohort


class _Shown:
    """A bar that is on the screen while its block runs; None where there is nothing to show."""

    _bar: Bar | None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class CaseProgress(_Shown):
    """A bar on stderr with the windows of the case in hand; nothing where stderr is no terminal."""

    def __init__(self, cases: int, *, show: bool) -> None:
        self._cases = cases
        self._done = 0
        self._bar = _bar() if show and sys.stderr.isatty() else None

    def begin(self, case: Case) -> Progress:
        """The progress function of a case."""
        bar = self._bar
        if bar is None:
            return lambda done, total: None
        number = f"{self._done + 1}/{self._cases} " if self._cases > 1 else ""
        task = bar.add_task(f"{number}{case.input.name}", total=None)
        return lambda done, total: bar.update(task, completed=done, total=total)

    def end(self) -> None:
        """A case has ended: its line makes room for the next."""
        self._done += 1
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)


class BatchProgress(_Shown):
    """A bar on stderr with studies done, failed and left, and the time left; nothing where stderr is no terminal."""

    def __init__(self, cases: int, *, show: bool) -> None:
        self._left, self._done, self._failed = cases, 0, 0
        self._bar = _batch_bar() if show and sys.stderr.isatty() else None
        self._task = self._bar.add_task(self._text(), total=cases) if self._bar else None

    def begin(self, case: Case) -> Progress:
        """The progress function of a case, whose windows are too short-lived to be shown here."""
        return lambda done, total: None

    def end(self, *, failed: bool) -> None:
        """A case has ended."""
        self._left -= 1
        self._failed += failed
        self._done += not failed
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=self._text())

    def _text(self) -> str:
        return f"{self._done} done, {self._failed} failed, {self._left} left"


def describe(result: Result, *, verbose: bool, to_stderr: bool) -> None:
    """Say in one line what became of a case, and note what is doubtful about it."""
    record, name = result.record, result.case.input.name
    if result.error is not None:
        return  # all failures are listed at the end
    if record is None:
        click.echo(f"{result.case.mask}  (done before, unchanged)", err=to_stderr)
        return
    seconds = sum(stage.seconds for stage in record.stages)
    model = f"{record.model.name} {record.model.version}"
    click.echo(f"{result.case.mask}  ({model}, {record.device}, {seconds:.1f} s)", err=to_stderr)
    for finding in record.findings:
        click.echo(f"note: {name}: {finding}", err=True)
    if verbose:
        if result.status not in (Status.NEW, Status.DONE):
            click.echo(f"{name}: done again: {result.status}", err=True)
        for stage in record.stages:
            memory = f", peak memory {stage.peak_memory_mib:.0f} MiB" if stage.peak_memory_mib else ""
            click.echo(f"{name}: {stage.name} {stage.seconds:.2f} s{memory}", err=True)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """All results as plain values."""
    return {
        "cases": [_summary(result) for result in results],
        "failed": sum(result.error is not None for result in results),
    }


def _summary(result: Result) -> dict[str, Any]:
    name = result.case.input.name
    if result.error is not None:
        code = result.error.exit_code if isinstance(result.error, MedsegError) else 1
        return {"name": name, "status": "failed", "error": str(result.error), "exit_code": code}
    record = result.record
    status = "skipped" if record is None else "done"
    places = {"name": name, "status": status, "mask": str(result.case.mask), "record": str(result.folder / RECORD)}
    return places | (_made(record, result) if record else {})


def _made(record: Record, result: Result) -> dict[str, Any]:
    return {
        "reason": str(result.status),
        "outputs": [str(result.folder / output.name) for output in record.outputs[1:]],
        "model": f"{record.model.name} {record.model.version}",
        "labels": record.settings["labels"],
        "findings": [{"code": finding.code, "message": finding.message} for finding in record.findings],
        "seconds": round(sum(stage.seconds for stage in record.stages), 3),
    }


class FileProgress:
    """A bar on stderr with the files that were looked at; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Bar | None = _bar("files") if sys.stderr.isatty() else None

    def __enter__(self) -> FileProgress:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("looking", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, count: int, total: int) -> None:
        """So many files are done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=count, total=total)


def study_text(study: Study) -> str:
    """What was found in a path, for people."""
    lines: list[str] = []
    owner: tuple[str, ...] = ()
    for series in sorted(study.series, key=lambda one: one.owner):
        if series.owner[:2] != owner[:2]:
            lines.append(f"patient {series.owner[0]}, study {series.owner[1]}:" if series.owner else "without patient:")
        owner = series.owner
        lines += [*_series_lines(series), f"  predict: {_verdict(study, series)}"]
    if study.skipped:
        lines.append(f"{len(study.skipped)} other file(s):")
        lines += [f"  {path}: {reason}" for path, reason in study.skipped]
    return "\n".join(lines) or "nothing found"


def _series_lines(series: Series) -> list[str]:
    files = f"  ({len(series.paths)} files)" if len(series.paths) > 1 else ""
    about = [series.format, series.modality or "modality unknown"]
    if series.shape:
        about.append(" × ".join(map(str, series.shape)) + " voxels")
    if series.spacing_mm:
        about.append(" × ".join(f"{spacing:.4g}" for spacing in series.spacing_mm) + " mm")
    if series.frames > 1:
        about.append(f"{series.frames} frames")
    if series.description:
        about.append(series.description)
    lines = [f"{series.paths[0]}{files}", f"  {', '.join(about)}"]
    if not series.readable:
        lines.append("  cannot be read")
    return lines + [f"  note: {finding}" for finding in series.findings]


def _verdict(study: Study, series: Series) -> str:
    """Whether `predict` takes a candidate, and why."""
    if reason := study.left_out(series):
        return f"leaves it out: {reason}, and there is another candidate; give its files alone to take it"
    if not series.readable:
        return "reports it as failed, for the reason above"
    if len(study.taken) == 1:
        return "takes it, the only candidate"
    return f"takes it, one of {len(study.taken)} candidates, each of which becomes a case of its own"


def study_json(study: Study) -> dict[str, Any]:
    """What was found in a path, as plain values."""
    return {
        "series": [
            {
                "paths": [str(path) for path in series.paths],
                "format": series.format,
                "readable": series.readable,
                "shape": series.shape,
                "spacing_mm": series.spacing_mm,
                "frames": series.frames,
                "modality": series.modality,
                "description": series.description,
                "owner": series.owner,
                "taken": not study.left_out(series),
                "verdict": _verdict(study, series),
                "findings": [{"code": finding.code, "message": finding.message} for finding in series.findings],
            }
            for series in study.series
        ],
        "skipped": [{"path": str(path), "reason": reason} for path, reason in study.skipped],
    }


@contextmanager
def counting(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for (done, in all); nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with _bar(unit) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def evaluation_json(cohort: Cohort, alone: bool) -> str:
    """One line: the report of two files, or the summary of two folders."""
    from medseg.report.summary import summary

    if alone and cohort.done:
        return cohort.done[0][1].to_json()
    return json.dumps(summary(cohort), allow_nan=False)


def evaluation_text(cohort: Cohort, alone: bool) -> str:
    """The same for people, in 80 columns."""
    if alone and cohort.done:
        return cohort.done[0][1].to_text()
    lines = [f"{'case':<52}  {'Dice':>8}  {'IoU':>8}"]
    for name, report in cohort.done:
        lines.append(f"{textwrap.shorten(name, 52):<52}  {report.mean_dice:>8.4f}  {report.mean_iou:>8.4f}")
    lines.append(f"mean over {len(cohort.labels)} labels of {len(cohort.done)} cases")
    lines[-1] = f"{lines[-1]:<52}  {cohort.mean_over_labels('dice'):>8.4f}  {cohort.mean_over_labels('iou'):>8.4f}"
    lines += [f"failed: {case.name}: {case.error}" for case in cohort.cases if case.error]
    lines += [f"no prediction: {name}" for name in cohort.missing]
    lines += [f"no reference: {name}" for name in cohort.surplus]
    return "\n".join([*lines, *(f"note: {finding}" for finding in cohort.findings)])


def _batch_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _bar(unit: str = "windows") -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
