"""Cases from files to files: read, choose a model, segment, write; one bad case does not stop the others."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medseg.cases import Case, Result, identity_of
from medseg.choice import Choice, fitting, named
from medseg.config import PredictConfig
from medseg.devices import device_title
from medseg.errors import MedsegError
from medseg.formats import Algorithm
from medseg.inputs import Input, read_input
from medseg.labels import LabelSet
from medseg.ledger import (
    FAILURE,
    Output,
    Record,
    Scan,
    Status,
    UsedModel,
    record_folder,
    sha256_of,
    stamp_of,
    status,
)
from medseg.locks import locked
from medseg.model import Model, load_model
from medseg.outputs import source_of
from medseg.pipeline import segment
from medseg.publish import publish
from medseg.refine import component_refiner, crf_refiner
from medseg.resources import resource_error
from medseg.stages import Stages
from medseg.study import DEFAULT_OPTIONS, Finding, ScanOptions
from medseg.turns import turn
from medseg.volume import Segmentation, Volume

Progress = Callable[[int, int], None]

_LIBRARIES = ("numpy", "torch", "monai", "nibabel", "pydicom", "highdicom")


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
                labels; else without mirrored passes and with less overlap, which may not.

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
                    versions=_versions(),
                    input=_scan(case.input, volume, identity.input_sha256, stamp),
                    model=_used(choice),
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
        if self.following is not None:
            self._read_ahead(self.following)
        if choice.folder not in self._models:
            self._models[choice.folder] = load_model(choice.folder)
        stages.lap("load")
        device, windows = ("cpu" if smaller else self.device), choice.windows
        if smaller and device == self.device:
            windows = replace(choice, settings=choice.settings.model_copy(update={"fast": True})).windows
        model = replace(self._models[choice.folder], windows=windows)
        refiners = [crf_refiner(choice.crf)] if choice.crf else []
        if choice.components.anything:
            refiners.append(component_refiner(choice.components))
        with turn(device) as waited:
            if waited:
                stages.lap("wait")
            segmentation = segment(volume, model, refiners=refiners, device=device, progress=progress)
        stages.lap("segment")
        if choice.labels != info.labels:
            segmentation = keep(segmentation, choice.labels)
        findings = [*segmentation.findings]
        findings += [
            Finding("unlike-training-data", f"Model {info.name} {doubt}; labels may be wrong.")
            for doubt in info.doubts(volume)
        ]
        if choice.shortcuts:
            options = ", ".join(choice.shortcuts)
            findings.append(Finding("fast", f"Made with {options}; labels may differ from those of a full run."))
        if windows != choice.windows:
            less = "without mirrored passes and with less overlap; labels may differ from those of a full run."
            findings.append(Finding("less-memory", f"Memory was not enough; made again {less}"))
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
            result = predictor.run(case, progress=progress(case), skip_done=skip_done, wait=wait)
        except Exception as error:  # whatever is wrong with this case, the next one may be sound
            mendable = error if isinstance(error, MedsegError) else resource_error(error)
            yield Result(case, None, case.folder, error=mendable or error)
            continue
        if result is None:
            waiting.append((case, True))
        else:
            yield result


def keep(segmentation: Segmentation, labels: LabelSet) -> Segmentation:
    """The segmentation with all but these labels made background."""
    table = np.zeros(int(segmentation.array.max()) + 1, dtype=labels.dtype)
    kept = [index for index in labels.indices if index < len(table)]
    table[kept] = kept
    return replace(segmentation, array=table[segmentation.array], labels=labels)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES}


def _scan(scan: Input, volume: Volume, sha256: str, stamp: str | None) -> Scan:
    geometry = volume.geometry
    return Scan(
        name=scan.series[0].hide(scan.paths[0].name) if len(scan.paths) == 1 else scan.name,
        files=len(scan.paths),
        sha256=sha256,
        stamp=stamp,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        modality=volume.modality,
    )


def _used(choice: Choice) -> UsedModel:
    card = choice.info.card
    return UsedModel(
        name=card.name, version=card.version, title=card.title, licence=card.licence, sha256=choice.info.sha256
    )
