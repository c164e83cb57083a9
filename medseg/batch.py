"""Many cases, by one process or several: what fails is recorded with its reason, and the others go on."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch

from medseg.case import Predictor, Progress
from medseg.cases import Case, Result
from medseg.config import PredictConfig
from medseg.devices import choose_device, free_memory
from medseg.errors import MedsegError, ResourceError
from medseg.ledger import Failure, record_folder, write_failure
from medseg.resources import cores, out_of_memory, resource_error
from medseg.study import DEFAULT_OPTIONS, ScanOptions
from medseg.triage import Triage

_END_S = 10  # how long a process that has nothing left to do may take to end


class Runner:
    """Does cases in this process; the model is loaded when the first one needs it, and kept.

    Args:
        settings: What the user asks for.
        frame: Which volume of a file that holds several.
        options: How the scans were looked for.
        force: Whether to do also what is done.
    """

    def __init__(
        self,
        settings: PredictConfig,
        *,
        frame: int | None = None,
        options: ScanOptions = DEFAULT_OPTIONS,
        force: bool = False,
    ) -> None:
        self._triage = Triage(settings, frame=frame, options=options)
        device = choose_device(settings.device)
        self._predictor = Predictor(settings, device=device, frame=frame, options=options)
        self._skip_done = not force

    @property
    def channels(self) -> int:
        """Channels of the model that was named; 1 where each scan finds its own."""
        return self._predictor.channels

    def run(self, case: Case, progress: Progress, *, wait: bool) -> Result | None:
        """Do a case; one that runs out of memory is tried once more with a smaller plan.

        Args:
            case: What to do.
            progress: Called with (windows done, windows in all).
            wait: Whether to wait while another process does this case.

        Returns:
            What became of it, also if it failed; None if another process is doing it.
        """
        result = self._attempt(case, progress, wait=wait, smaller=False)
        if result is not None and result.error is not None and out_of_memory(result.error):
            free_memory()
            result = self._attempt(case, progress, wait=wait, smaller=True)
        if result is None or result.error is None:
            return result
        error = _one_line(result.error)
        record(case, error, self._triage)
        return replace(result, error=error)

    def _attempt(self, case: Case, progress: Progress, *, wait: bool, smaller: bool) -> Result | None:
        try:
            return self._predictor.run(case, progress=progress, skip_done=self._skip_done, wait=wait, smaller=smaller)
        except Exception as error:  # whatever is wrong with this case, the next one may be sound
            # The frames of the traceback would keep what they hold in memory.
            return Result(case, None, case.folder, error=error.with_traceback(None) if out_of_memory(error) else error)


def record(case: Case, error: Exception, triage: Triage) -> None:
    """Write down why a case has no result, so that it is not tried again until something changes."""
    write_failure(record_folder(case.mask, case.folder), Failure.of(error, triage.attempt(case)))


def run_batch(
    cases: Sequence[Case],
    settings: PredictConfig,
    *,
    frame: int | None = None,
    options: ScanOptions = DEFAULT_OPTIONS,
    force: bool = False,
    jobs: int = 1,
    progress: Callable[[Case], Progress],
) -> Iterator[Result]:
    """Do the cases; those that another process is doing come last.

    Args:
        cases: What to do.
        settings: What the user asks for.
        frame: Which volume of a file that holds several.
        options: How the scans were looked for.
        force: Whether to do also what is done.
        jobs: How many processes; with one, it is this one.
        progress: Gives a case its progress function; with several jobs it is not used.

    Yields:
        A result for every case, failed ones among them.
    """
    if jobs > 1:
        how = {"frame": frame, "options": options, "force": force}
        yield from _Team(settings, how, min(jobs, len(cases))).run(cases)
        return
    runner = Runner(settings, frame=frame, options=options, force=force)
    waiting = deque((case, False) for case in cases)
    while waiting:
        case, patient = waiting.popleft()
        result = runner.run(case, progress(case), wait=patient)
        if result is None:
            waiting.append((case, True))
        else:
            yield result


class _Team:
    """Processes that each do one case at a time; one that dies takes no other case with it."""

    def __init__(self, settings: PredictConfig, how: dict[str, Any], size: int) -> None:
        # A forked child would inherit locks of torch's threads, and could not use the GPU.
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (settings, how, max(1, cores() // size))
        self._triage = Triage(settings, frame=how["frame"], options=how["options"])
        self._size = size
        self._members: dict[Connection, tuple[BaseProcess, Case]] = {}

    def run(self, cases: Sequence[Case]) -> Iterator[Result]:
        waiting = deque((case, False) for case in cases)
        try:
            for _ in range(self._size):
                self._hire(waiting)
            while self._members:
                for ready in wait(list(self._members)):
                    yield from self._answer(cast("Connection", ready), waiting)
        finally:
            for connection, (process, _) in self._members.items():
                process.terminate()
                process.join(_END_S)
                connection.close()

    def _hire(self, waiting: deque[tuple[Case, bool]]) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self._give(ours, process, waiting)

    def _give(self, connection: Connection, process: BaseProcess, waiting: deque[tuple[Case, bool]]) -> None:
        if waiting:
            case, patient = waiting.popleft()
            self._members[connection] = (process, case)
            with suppress(OSError):  # it has died; its end is seen by the next wait
                connection.send((case, patient))
            return
        self._members.pop(connection, None)
        connection.close()  # the process sees it and ends
        process.join(_END_S)

    def _answer(self, connection: Connection, waiting: deque[tuple[Case, bool]]) -> Iterator[Result]:
        process, case = self._members[connection]
        try:
            result = cast("Result | None", connection.recv())
        except (EOFError, OSError):
            del self._members[connection]
            connection.close()
            process.join(_END_S)
            how = f"{case.input.paths[0]}: the process that did this scan died (exit code {process.exitcode})"
            error = ResourceError(f"{how}; it may have run out of memory: use fewer --jobs.")
            record(case, error, self._triage)
            yield Result(case, None, case.folder, error=error)
            if waiting:
                self._hire(waiting)
            return
        if result is None:
            waiting.append((case, True))
        else:
            yield result
        self._give(connection, process, waiting)


def _work(connection: Connection, settings: PredictConfig, how: dict[str, Any], threads: int) -> None:
    """What a process of a team does until it is left alone."""
    torch.set_num_threads(threads)
    runner = Runner(settings, **how)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            case, patient = connection.recv()
            connection.send(runner.run(case, lambda done, total: None, wait=patient))


def _one_line(error: Exception) -> Exception:
    return error if isinstance(error, MedsegError) else resource_error(error) or error
