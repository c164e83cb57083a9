"""What the commands show: progress, results, lists; for people and as plain values for --json."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from medseg.bundle import WEIGHTS, read_info, shipped_models
from medseg.errors import MedsegError
from medseg.ledger import RECORD, Record, Status
from medseg.study import Series, Study

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from medseg.case import Progress
    from medseg.cases import Case, Result

_WIDTH = 80


class CaseProgress:
    """A bar on stderr with the windows of the case in hand; nothing where stderr is no terminal."""

    def __init__(self, cases: int, *, show: bool) -> None:
        self._cases = cases
        self._done = 0
        self._bar: Bar | None = _bar() if show and sys.stderr.isatty() else None

    def __enter__(self) -> CaseProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

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


class BatchProgress:
    """A bar on stderr with studies done, failed and left, and the time left; nothing where stderr is no terminal."""

    def __init__(self, cases: int, *, show: bool) -> None:
        self._left, self._done, self._failed = cases, 0, 0
        self._bar: Bar | None = _batch_bar() if show and sys.stderr.isatty() else None
        self._task = self._bar.add_task(self._text(), total=cases) if self._bar else None

    def __enter__(self) -> BatchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

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


def study_text(study: Study) -> str:
    """What was found in a path, for people."""
    lines = [line for series in study.series for line in _series_lines(series)]
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
    lines = [f"{series.paths[0]}{files}", f"  {', '.join(about)}"]
    if not series.readable:
        lines.append("  cannot be read")
    return lines + [f"  note: {finding}" for finding in series.findings]


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
                "findings": [{"code": finding.code, "message": finding.message} for finding in series.findings],
            }
            for series in study.series
        ],
        "skipped": [{"path": str(path), "reason": reason} for path, reason in study.skipped],
    }


def models_json(*, with_models: bool) -> dict[str, Any]:
    """Shipped models and architectures as plain values; no weights are loaded."""
    from medseg.networks import ARCHITECTURES

    content: dict[str, Any] = {
        "models": [_model(folder) for folder in shipped_models().values()] if with_models else []
    }
    content["architectures"] = [
        {"name": entry.name, "title": entry.title, "paper": entry.paper, "year": entry.year} for entry in ARCHITECTURES
    ]
    return content


def _model(folder: Path) -> dict[str, Any]:
    info = read_info(folder)
    weights = folder / WEIGHTS
    return {
        "name": info.name,
        "version": info.card.version,
        "title": info.card.title,
        "licence": info.card.licence,
        "accepts": info.accepts.model_dump(mode="json"),
        "labels": {str(index): name for index, name in info.labels.names.items()},
        "architecture": info.network.architecture,
        "bytes": weights.stat().st_size if weights.is_file() else None,
        "sha256": info.sha256,
    }


def models_text(content: dict[str, Any]) -> str:
    """The same for people, in 80 columns."""
    lines = ["models:"] if content["models"] else []
    for model in content["models"]:
        size = f"{model['bytes'] / 1e6:.1f} MB" if model["bytes"] else "weights missing"
        accepts = model["accepts"]
        low, high = accepts["field_of_view_mm"]
        modalities = " or ".join(accepts["modalities"]) or "any modality"
        view = f"{low:g} to {high:g} mm an axis" if high is not None and high < 1e9 else f"at least {low:g} mm an axis"
        labels = ", ".join(f"{index} {name}" for index, name in model["labels"].items())
        lines.append(f"  {model['name']} {model['version']}  {model['title']}")
        for text in (
            f"takes: {modalities}, {accepts['dimensions']}D, {view}",
            f"labels: {labels}",
            f"{model['architecture']}, {size}, {model['licence']}",
        ):
            lines += textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="      ")
    lines.append("architectures:")
    lines += [f"  {a['name']:<20} {a['title']}, {a['year']}, {a['paper']}" for a in content["architectures"]]
    return "\n".join(lines)


def _batch_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("windows"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
