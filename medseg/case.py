"""Cases from files to files: read, choose a model, segment, write; one bad case does not stop the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.cases import Case, Result, identity_of
from medseg.choice import Choice, fitting, named
from medseg.config import PredictConfig, Windows
from medseg.devices import device_title, free_memory
from medseg.errors import ConfigError, MedsegError
from medseg.formats import Algorithm
from medseg.inference import Compiler
from medseg.inputs import read_input
from medseg.labels import LabelSet
from medseg.ledger import (
    FAILURE,
    Output,
    Record,
    Status,
    record_folder,
    sha256_of,
    stamp_of,
    status,
)
from medseg.locks import locked
from medseg.model import Model, load_model
from medseg.outputs import source_of
from medseg.pipeline import segment
from medseg.planning import fit
from medseg.provenance import described, used, versions
from medseg.publish import publish
from medseg.refine import component_refiner, crf_refiner
from medseg.resources import megabytes, out_of_memory, resource_error
from medseg.stages import Stages
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions
from medseg.turns import turn
from medseg.volume import Segmentation, Volume

Progress = Callable[[int, int], None]


class Predictor:
    """Segments one case after another; a model is loaded when the first case needs it, and kept.

    Args:
        settings: What the user asked for.
        device: As torch calls it.
        frame: Which volume of a file that holds several.
        options: How the scans were looked for, which can change what is read.

    Attributes:
        following: What will be done after the present case, if known: its scan is read meanwhile.
    """

    def __init__(
        self,
        settings: PredictConfig,
        *,
        device: str,
        frame: int | None = None,
        options: ScanOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.settings = settings
        self.device = device
        self.frame = frame
        self.options = options
        self._named = named(settings)
        if self._named:
            _ = self._named.components  # a label that the model lacks is an error before any scan is read
        if settings.crf and settings.crf != "auto":
            crf_refiner(settings.crf)  # an unknown preset is an error before any scan is read
        self._limit_mib = megabytes(settings.max_memory) if settings.max_memory else None
        if settings.compile and settings.max_memory:
            raise ConfigError("The memory of --compile is not foreseen; leave --compile or --max-memory out.")
        self._compiler = Compiler() if settings.compile else None
        self.following: Case | None = None
        self._models: dict[Path, Model] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._ahead: tuple[Case, Future[Volume]] | None = None

    @property
    def channels(self) -> int:
        """Channels of the model that was named; 1 where each scan finds its own."""
        return self._named.info.network.in_channels if self._named else 1

    def run(
        self,
        case: Case,
        *,
        progress: Progress,
        skip_done: bool = False,
        wait: bool = True,
        smaller: bool = False,
    ) -> Result | None:
        """Do a case; its outputs appear together, the mask and the record last, or not at all.

        Args:
            case: What to do.
            progress: Called with (windows done, windows in all).
            skip_done: Whether to leave a case alone whose outputs are whole and would be the same.
            wait: Whether to wait while another process does this case.
            smaller: Whether to spare memory: on the CPU if it was the GPU's that was not enough, which gives the same
                labels; else without mirrored passes and with less overlap, which may not. Sums wait in a file.

        Returns:
            What was done, or None if another process is doing it.

        Raises:
            MedsegError: If the case cannot be done.
        """
        if case.input.problem is not None:
            raise case.input.problem
        source = source_of(case.input, self.settings.output_type)
        choice = self._named or fitting(case.input, self.settings)
        stages = Stages(self.device)
        stamp = stamp_of(case.input.paths)  # before the content, so that a change on the way shows the next time
        identity = identity_of(choice, self.frame, self.options, sha256_of(case.input.paths))
        stages.lap("hash")
        with locked(case.mask, wait=wait) as ours:
            if not ours:
                return None
            folder = record_folder(case.mask, case.folder)
            state = status(folder, identity)
            if state is Status.DONE and skip_done:
                return Result(case, state, folder)
            volume, segmentation = self._segment(case, choice, stages, progress, smaller=smaller)

            def record(outputs: tuple[Output, ...], findings: tuple[Finding, ...]) -> Record:
                stages.lap("write")
                return Record(
                    key=identity.key,
                    medseg=identity.version,
                    versions=versions(),
                    input=described(case.input, volume, identity.input_sha256, stamp),
                    model=used(choice),
                    settings=identity.settings,
                    settings_sha256=identity.settings_sha256,
                    device=device_title(self.device),
                    findings=tuple(dict.fromkeys((*segmentation.findings, *findings))),
                    stages=tuple(stages.done),
                    outputs=outputs,
                )

            folder, made = publish(
                volume,
                segmentation,
                mask=case.mask,
                preferred=case.folder,
                settings=self.settings,
                source=volume.sources or source,
                algorithm=Algorithm(choice.info.name, choice.info.card.version),
                about=(("Model", f"{choice.info.name} {choice.info.card.version}"), ("Title", choice.info.card.title)),
                record=record,
                sidecars=case.sidecars,
            )
            (folder / FAILURE).unlink(missing_ok=True)
            return Result(case, state, folder, made)

    def _segment(
        self,
        case: Case,
        choice: Choice,
        stages: Stages,
        progress: Progress,
        *,
        smaller: bool,
    ) -> tuple[Volume, Segmentation]:
        info = choice.info
        volume = self._read(case, choice)
        stages.lap("read")
        if self.following is not None and self._limit_mib is None:  # which two scans might exceed
            self._read_ahead(self.following)
        if choice.folder not in self._models:
            self._models[choice.folder] = load_model(choice.folder)
        stages.lap("load")
        device, windows = ("cpu" if smaller else self.device), choice.windows
        if smaller and device == self.device:
            windows = replace(choice, settings=choice.settings.model_copy(update={"fast": True})).windows
        model, spill = replace(self._models[choice.folder], windows=windows), smaller
        refiners = [crf_refiner(choice.crf)] if choice.crf else []
        if choice.components.anything:
            refiners.append(component_refiner(choice.components))
        how: dict[str, Any] = {"device": device, "compiler": self._compiler, "progress": progress}
        with turn(device) as waited:
            if waited:
                stages.lap("wait")
            prepared = None
            if self._limit_mib is not None:
                within = fit(volume, model, self._limit_mib, device=device)
                model, spill = replace(model, windows=within.windows), spill or within.spill
                prepared = within.prepared
                stages.lap("plan")
            segmentation = segment(volume, model, refiners=refiners, prepared=prepared, spill=spill, **how)
        stages.lap("segment")
        if choice.labels != info.labels:
            segmentation = keep(segmentation, choice.labels)
        findings = [*segmentation.findings, *_doubts(volume, choice, windows, model.windows)]
        if self._compiler is not None:
            findings += self._compiler.findings
        if not segmentation.array.any():
            findings.append(Finding("nothing-found", "None of the labels was found in the scan."))
        return volume, replace(segmentation, findings=tuple(dict.fromkeys(findings)))

    def _read(self, case: Case, choice: Choice) -> Volume:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is case:
            return ahead[1].result()
        return read_input(case.input, channels=choice.info.network.in_channels, frame=self.frame)

    def _read_ahead(self, case: Case) -> None:
        """Read a case's scan while another one is segmented; what is wrong with it shows when its turn comes."""

        def read() -> Volume:
            choice = self._named or fitting(case.input, self.settings)
            return read_input(case.input, channels=choice.info.network.in_channels, frame=self.frame)

        if case.input.problem is None:
            self._ahead = case, self._reader.submit(read)


def run_cases(
    cases: Sequence[Case], predictor: Predictor, *, progress: Callable[[Case], Progress], skip_done: bool = False
) -> Iterator[Result]:
    """Do the cases one after another; those that another process is doing come last.

    Args:
        cases: What to do.
        predictor: What does it.
        progress: Gives each case its progress function.
        skip_done: Whether to leave cases alone whose outputs are whole and would be the same.

    Yields:
        A result for every case, failed ones among them.
    """
    waiting: deque[tuple[Case, bool]] = deque((case, False) for case in cases)
    while waiting:
        case, wait = waiting.popleft()
        try:
            # The next one may be done already, where these are skipped; then reading it would be for nothing.
            predictor.following = waiting[0][0] if waiting and not skip_done else None
            result = _attempt(predictor, case, progress=progress(case), skip_done=skip_done, wait=wait)
        except Exception as error:  # whatever is wrong with this case, the next one may be sound
            mendable = error if isinstance(error, MedsegError) else resource_error(error)
            yield Result(case, None, case.folder, error=mendable or error)
            continue
        if result is None:
            waiting.append((case, True))
        else:
            yield result


def _doubts(volume: Volume, choice: Choice, windows: Windows, used_windows: Windows) -> Iterator[Finding]:
    """Why the labels may be wrong, or other than those of a full run.

    Args:
        volume: The scan.
        choice: The model and what was asked for.
        windows: What was chosen for want of memory, or `choice.windows`.
        used_windows: What came of it within --max-memory.
    """
    for doubt in choice.info.doubts(volume):
        yield Finding("unlike-training-data", f"Model {choice.info.name} {doubt}; labels may be wrong.")
    other = "labels may differ from those of a full run."
    if choice.shortcuts:
        yield Finding("fast", f"Made with {', '.join(choice.shortcuts)}; {other}")
    if windows != choice.windows:
        less = "without mirrored passes and with less overlap"
        yield Finding("less-memory", f"Memory was not enough; made again {less}; {other}")
    if used_windows.size != windows.size:
        size = " × ".join(map(str, used_windows.size))
        yield Finding("narrow-windows", f"Made with windows of {size} for --max-memory; {other}")


def _attempt(predictor: Predictor, case: Case, **how: Any) -> Result | None:
    """Do a case; one that runs out of memory is tried once more with a smaller plan."""
    try:
        return predictor.run(case, **how)
    except Exception as error:
        if not out_of_memory(error):
            raise
    free_memory()  # here, where the frames of the traceback hold nothing any more
    return predictor.run(case, smaller=True, **how)


def keep(segmentation: Segmentation, labels: LabelSet) -> Segmentation:
    """The segmentation with all but these labels made background."""
    table = np.zeros(int(segmentation.array.max()) + 1, dtype=labels.dtype)
    kept = [index for index in labels.indices if index < len(table)]
    table[kept] = kept
    return replace(segmentation, array=table[segmentation.array], labels=labels)
