"""Flow `reprocess-studies`: what has no result in an archive, or a stale one, in chunks of a flow run each."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.forms import ArchiveRequest
from medseg.batch import run_batch
from medseg.cases import Case, plan_tree
from medseg.config import PredictConfig
from medseg.errors import BatchError
from medseg.inputs import find_inputs
from medseg.triage import Action, Triage


@task(name="look-through", cache_policy=NO_CACHE, persist_result=False)
def look_through(request: ArchiveRequest, folder: Path) -> list[Path]:
    """Ask the records what has to be done, and write it down in files of a chunk each."""
    triage = Triage(request.settings, frame=request.frame, retry_failed=request.retry_failed)
    inputs = find_inputs([str(request.root)], channels=triage.channels, apart=False)
    cases = plan_tree(inputs, request.root, request.output, request.settings.output_type)
    verdicts = list(triage.judge(cases))
    todo = [verdict.case for verdict in verdicts if verdict.action is not Action.SKIP]
    before = sum(verdict.failed for verdict in verdicts)
    get_run_logger().info("%d studies: %d to do, %d failed before and unchanged.", len(cases), len(todo), before)
    chunks = []
    for start in range(0, len(todo), request.chunk):
        path = folder / f"chunk-{start // request.chunk + 1:04d}"
        path.write_bytes(pickle.dumps(todo[start : start + request.chunk]))
        chunks.append(path)
    return chunks


@flow(name="segment-chunk", flow_run_name="{chunk.name}")
def segment_chunk(chunk: Path, settings: PredictConfig, frame: int | None) -> int:
    """Segment some studies with one load of the model; gives the number of those that failed.

    Args:
        chunk: Which, as `look_through` wrote it down; it lives as long as that flow run.
        settings: How.
        frame: Which volume of a file that holds several.
    """
    cases: list[Case] = pickle.loads(chunk.read_bytes())
    failed = []
    for number, result in enumerate(run_batch(cases, settings, frame=frame, progress=lambda case: _silent), start=1):
        get_run_logger().info("%d of %d: %s.", number, len(cases), "failed" if result.error else result.status)
        if result.error is not None:
            failed.append({"study": str(result.case.mask), "reason": str(result.error)})
    if failed:
        create_table_artifact(key="failed", table=failed, description="Studies without a result")
    return len(failed)


@flow(name="reprocess-studies", flow_run_name="reprocess")
def reprocess_studies(request: ArchiveRequest) -> int:
    """Segment what has no result or a stale one.

    Args:
        request: Where the studies are, and how to segment them.

    Returns:
        The number of chunks.

    Raises:
        BatchError: If studies failed in this run; the others are complete.
    """
    with tempfile.TemporaryDirectory() as folder:
        chunks = look_through(request, Path(folder))
        failed = sum(segment_chunk(chunk, request.settings, request.frame) for chunk in chunks)
    if failed:
        raise BatchError(f"{failed} studies failed; each has its reason in failed.json, and in the chunks' artifacts.")
    return len(chunks)


def _silent(done: int, total: int) -> None:
    """Windows are too short-lived for Prefect."""
