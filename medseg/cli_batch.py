"""`medseg batch`: everything in a folder, as often as one likes."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medseg.errors import BatchError, ConfigError, MedsegError
from medseg.options import FILE, prediction_options, prediction_settings, scan_options, silence_libraries
from medseg.program import EXIT_CODES, complain

if TYPE_CHECKING:
    from medseg.cases import Result
    from medseg.triage import Verdict

_NAMED = 10  # studies that the last line names before it only counts


class _Shard(click.ParamType[tuple[int, int]]):
    """i/n, from 1."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Both numbers."""
        number, _, shards = str(value).partition("/")
        if not (number.isdigit() and shards.isdigit() and 1 <= int(number) <= int(shards)):
            self.fail(f"{value!r} is not I/N, such as 1/4 to 4/4.", param, ctx)
        return int(number), int(shards)


@click.command(epilog=EXIT_CODES)
@click.argument("source", type=FILE, metavar="IN")
@click.argument("output", type=FILE, metavar="OUT")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and why.")
@click.option("--force", is_flag=True, help="Do everything again.")
@click.option("--retry-failed", is_flag=True, help="Also what failed before and has not changed.")
@click.option("--verify", is_flag=True, help="Read all files, unchanged ones too.")
@click.option("--shard", type=_Shard(), help="The Ith of N parts, such as 1/4.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Processes (default: 1).")
@prediction_options
def batch(
    source: Path,
    output: Path,
    dry_run: bool,
    force: bool,
    retry_failed: bool,
    verify: bool,
    shard: tuple[int, int] | None,
    jobs: int,
    frame: int | None,
    config: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Segment all scans in IN that have no result in OUT, or one that is stale.

    Can be run again at any time, also several times at once: every scan is done
    once. It is done again when its files, the model's weights, a setting or
    medseg's version changed, or when an output is missing or altered. A file
    with the recorded name, size and time of change counts as unchanged; --verify
    reads it. The results of IN/a/scan.nii.gz lie in OUT/a/scan/.

    A scan that fails leaves its reason in failed.json and is left alone until
    something changes; one that failed for want of memory or disk is tried again.

    Of a BIDS dataset, OUT becomes a BIDS derivative with _dseg.nii.gz files.

    \b
    medseg batch scans results --dry-run
    medseg batch scans results --jobs 4
    medseg batch bids bids/derivatives/medseg
    """
    reading = scan_options(options)
    settings = prediction_settings(config, options)
    silence_libraries(verbose)
    from medseg import bids
    from medseg.inputs import find_inputs
    from medseg.triage import Action, Triage
    from medseg.triage import shard as part

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: a file; give a folder.")
    triage = Triage(settings, frame=frame, options=reading, force=force, retry_failed=retry_failed, verify=verify)
    dataset = bids.is_dataset(source)
    if dataset:
        cases = bids.plan(source, output, settings.output_type, channels=triage.channels, options=reading)
    else:
        from medseg.cases import plan_tree

        inputs = find_inputs([str(source)], channels=triage.channels, apart=False, options=reading)
        cases = plan_tree(inputs, source, output, settings.output_type)
    cases = part(cases, source, *shard) if shard else cases
    verdicts = list(triage.judge(cases))
    if dry_run:
        _show(verdicts, as_json=as_json)
        return
    todo = [verdict.case for verdict in verdicts if verdict.action is not Action.SKIP]
    results: list[Result] = []
    if todo:
        if dataset:
            bids.describe(source, output)
        results = _run(
            todo, settings, frame=frame, options=reading, force=force, jobs=jobs, quiet=quiet, to_stderr=as_json
        )
        if dataset:
            bids.tabulate(output)
    _end(verdicts, results, as_json=as_json, quiet=quiet)


def _run(todo: Sequence[Any], settings: Any, *, quiet: bool, to_stderr: bool, jobs: int, **how: Any) -> list[Result]:
    """Do what has to be done; only here torch is imported."""
    from medseg.batch import run_batch
    from medseg.console import BatchProgress, describe

    results = []
    with BatchProgress(len(todo), show=not quiet) as progress:
        for result in run_batch(todo, settings, jobs=jobs, progress=progress.begin, **how):
            results.append(result)
            progress.end(failed=result.error is not None)
            if not quiet:
                describe(result, verbose=False, to_stderr=to_stderr)
    return results


def _show(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    count = Counter(verdict.action for verdict in verdicts)
    if as_json:
        cases = [
            {"name": one.case.input.name, "mask": str(one.case.mask), "action": one.action, "reason": one.reason}
            for one in verdicts
        ]
        click.echo(json.dumps({"cases": cases} | dict(count)))
        return
    for one in verdicts:
        click.echo(f"{one.action:<6} {one.case.mask}  ({one.reason})")
    click.echo(", ".join(f"{number} {action}" for action, number in sorted(count.items())) or "nothing found")


def _end(verdicts: Sequence[Verdict], results: Sequence[Result], *, as_json: bool, quiet: bool) -> None:
    """Say what became of everything; what has no result is listed.

    Raises:
        BatchError: If something failed now, or before and was left alone.
    """
    failed = [(result.case.input.name, result.error) for result in results if result.error is not None]
    before = [(one.case.input.name, one.reason) for one in verdicts if one.failed]
    done = sum(result.record is not None for result in results)
    unchanged = len(verdicts) - done - len(failed) - len(before)
    counts = {"done": done, "unchanged": unchanged, "failed": len(failed), "failed_before": len(before)}
    if as_json:
        from medseg.console import summary

        click.echo(json.dumps(summary(results) | counts))
    elif not quiet:
        click.echo(", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items()))
    for name, error in failed:
        if not isinstance(error, MedsegError):
            traceback.print_exception(error)
        complain(f"{name}: {error}", 0)
    for name, reason in before:
        complain(f"{name}: {reason}", 0)
    names = [name for name, _ in (*failed, *before)]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise BatchError(
            f"{len(names)} of {len(verdicts)} studies have no result: {', '.join(names[:_NAMED])}{more}."
            " What failed before is tried again with --retry-failed."
        )
