"""Flow `segment-study`: a study's scans, one after another, to masks, with a report in Prefect's UI."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from prefect import flow, get_run_logger, runtime, task

from flows.artifacts import Done, progress_bar, report
from flows.exchange import PATIENT, PLAIN, fetch_study, push_masks
from flows.forms import Processing, StudyRequest
from medseg.batch import Runner
from medseg.cases import Case, plan_cases, plan_tree
from medseg.choice import fitting
from medseg.errors import BatchError, InputError, ModelError
from medseg.inputs import Input, find_inputs


def name_of_run() -> str:
    """A name that tells studies apart without naming a patient."""
    request = runtime.flow_run.parameters["request"]
    study = request.study if isinstance(request, StudyRequest) else str(request["study"])
    return f"study-{hashlib.sha256(study.encode()).hexdigest()[:10]}"


@task(name="choose-scans", task_run_name="choose", **PLAIN)
def choose_scans(request: StudyRequest, fetched: list[Path]) -> tuple[list[Case], list[str]]:
    """The scans of a study that a model takes, and why the others are passed over.

    Args:
        request: What is wanted.
        fetched: Folders of the series that came from a PACS, where it came from one.

    Raises:
        InputError: If there is no scan, or none that a model takes.
    """
    cases: list[Case] = []
    reasons: list[str] = []
    if not fetched:
        study = Path(request.study)
        chosen = _chosen(request, study, reasons)
        root = study if study.is_dir() else study.parent
        cases += plan_tree(chosen, root, request.output, request.settings.output_type)
    for folder in fetched:
        # As `medseg pacs watch` has it, so that each knows what the other has done.
        output = request.output / "results" / folder.parent.name / folder.name
        cases += plan_cases(_chosen(request, folder, reasons), output, request.settings.output_type)
    if not cases:
        raise InputError(f"No scan of the study can be segmented ({'; '.join(reasons)}).")
    return cases, reasons


def _chosen(request: StudyRequest, path: Path, reasons: list[str]) -> list[Input]:
    chosen = []
    how = request.how
    channels = runner_for(request.alone()).channels
    try:
        inputs = find_inputs([str(path)], channels=channels, apart=False, options=how["options"])
    except InputError as error:
        reasons.append(str(error))
        return []
    for one in inputs:
        try:
            if one.problem is not None:
                raise one.problem
            if request.settings.model is None:
                fitting(one, request.settings)
            chosen.append(one)
        except (InputError, ModelError) as error:
            reasons.append(str(error))
    return chosen


@task(name="segment-scan", task_run_name="scan-{number}", **PATIENT)
def segment_scan(case: Case, number: int, processing: Processing) -> Done:
    """Segment a scan unless its result stands."""
    result = runner_for(processing).run(case, lambda done, total: None, wait=True)
    assert result is not None  # None is only for those who do not wait
    if result.error is not None:
        raise result.error
    get_run_logger().info("Scan %d: %s.", number, result.status)
    return Done(number, result.folder, case.mask)


def runner_for(processing: Processing) -> Runner:
    """What segments in this way, the same for all flow runs of a process, so that models load once."""
    return _runner(processing.model_dump_json())


@cache
def _runner(processing: str) -> Runner:
    wanted = Processing.model_validate_json(processing)
    return Runner(wanted.settings, **wanted.how)


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
    fetched = fetch_study(request.pacs, request.study, request.output / "images") if request.pacs else []
    cases, passed_over = choose_scans(request, fetched)
    progress = progress_bar("Scans done")
    done: list[Done] = []
    failed: list[str] = []
    for number, case in enumerate(cases, start=1):
        state = segment_scan(case, number, request.alone(), return_state=True)
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, Done):
            done.append(outcome)
        else:
            failed.append(f"scan {number}: {outcome}")
        progress(number, len(cases))
    if done:
        report(done, passed_over, request.reference)
        if request.pacs and request.pacs.push:
            push_masks(request.pacs, [one.folder for one in done])
    if failed:
        raise BatchError(f"{len(failed)} of {len(cases)} scans failed: {'; '.join(failed)}")
    return [one.folder for one in done]
