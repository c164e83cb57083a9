"""Flow `segment-study`: a study's scans, one after another, to masks, with a report in Prefect's UI."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

import medseg
from flows.forms import StudyRequest
from medseg.batch import Runner
from medseg.cases import Case, plan_tree
from medseg.choice import fitting
from medseg.config import PredictConfig
from medseg.errors import BatchError, InputError, ModelError, ResourceError
from medseg.inputs import find_inputs
from medseg.ledger import RECORD


def name_of_run() -> str:
    """A name that tells studies apart without naming a patient."""
    request = runtime.flow_run.parameters["request"]
    study = str(request.study if isinstance(request, StudyRequest) else request["study"])
    return f"study-{hashlib.sha256(study.encode()).hexdigest()[:10]}"


async def is_passing(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may succeed: for want of memory, disk or network, never for a bad input."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, ResourceError | OSError)


@task(name="choose-scans", cache_policy=NO_CACHE, persist_result=False)
def choose_scans(request: StudyRequest) -> tuple[list[Case], list[str]]:
    """The scans of a study that a model takes, and why the others are passed over.

    Raises:
        InputError: If there is no scan, or none that a model takes.
    """
    runner = runner_for(request.settings.model_dump_json(), request.frame)
    root = request.study if request.study.is_dir() else request.study.parent
    inputs = find_inputs([str(request.study)], channels=runner.channels, apart=False)
    chosen, reasons = [], []
    for one in inputs:
        try:
            if one.problem is not None:
                raise one.problem
            if request.settings.model is None:
                fitting(one, request.settings)
            chosen.append(one)
        except (InputError, ModelError) as error:
            reasons.append(str(error))
    if not chosen:
        raise InputError(f"{request.study}: no scan to segment ({'; '.join(reasons)}).")
    return list(plan_tree(chosen, root, request.output, request.settings.output_type)), reasons


@task(
    name="segment-scan",
    task_run_name="scan-{number}",
    cache_policy=NO_CACHE,  # Prefect's cache knows nothing of the files; medseg's record does
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_passing,
)
def segment_scan(case: Case, number: int, settings: PredictConfig, frame: int | None) -> Path:
    """Segment a scan unless its result stands; gives the folder of its record."""
    result = runner_for(settings.model_dump_json(), frame).run(case, lambda done, total: None, wait=True)
    assert result is not None  # None is only for those who do not wait
    if result.error is not None:
        raise result.error
    get_run_logger().info("Scan %d: %s.", number, result.status)
    return result.folder


@cache
def runner_for(settings: str, frame: int | None) -> Runner:
    """What segments with these settings (JSON), the same for all flow runs of a process, so that models load once."""
    return Runner(PredictConfig.model_validate_json(settings), frame=frame)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report(folders: list[Path], passed_over: list[str], reference: Path | None) -> None:
    """Show labels, volumes and, with a reference, Dice; link masks, previews and records."""
    rows, links = [], []
    for number, folder in enumerate(folders, start=1):
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = [folder / RECORD, *(folder / output["name"] for output in record["outputs"])]
        links += [f"- scan {number}: [{file.name}]({file.resolve().as_uri()})" for file in files]
        links += [f"  - {finding['message']}" for finding in record["findings"]]
        scores = _dice(reference, files[1]) if reference else {}
        for label in _labels(folder):
            row = {"scan": number, "label": label["name"], "volume_ml": label["volume_ml"]}
            rows.append(row | ({"dice": scores.get(label["name"])} if reference else {}))
    create_table_artifact(key="labels", table=rows, description="Labels and volumes")
    links += [f"- passed over: {reason}" for reason in passed_over]
    create_markdown_artifact(key="files", markdown="\n".join(links), description="Masks, previews and records")


def _labels(folder: Path) -> list[dict[str, Any]]:
    path = folder / "statistics.json"
    return json.loads(path.read_text(encoding="utf-8"))["labels"] if path.is_file() else []


def _dice(reference: Path, mask: Path) -> dict[str, float | None]:
    content = json.loads(medseg.evaluate(reference, mask).to_json())
    return {row["name"]: row["dice"] for row in content["labels"]}


@flow(name="segment-study", flow_run_name=name_of_run)
def segment_study(request: StudyRequest) -> list[Path]:
    """Segment the scans of a study.

    Args:
        request: What to segment, and how.

    Returns:
        The folders of the records.

    Raises:
        BatchError: If one or more scans failed; the others are complete.
    """
    cases, passed_over = choose_scans(request)
    progress = create_progress_artifact(0.0, key="progress", description="Scans done")
    folders: list[Path] = []
    failed: list[str] = []
    for number, case in enumerate(cases, start=1):
        state = segment_scan(case, number, request.settings, request.frame, return_state=True)
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, Path):
            folders.append(outcome)
        else:
            failed.append(f"scan {number}: {outcome}")
        update_progress_artifact(progress, 100.0 * number / len(cases))
    if folders:
        report(folders, passed_over, request.reference)
    if failed:
        raise BatchError(f"{len(failed)} of {len(cases)} scans failed: {'; '.join(failed)}")
    return folders
