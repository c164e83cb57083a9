"""Flow `reprocess-studies`: what has no result in an archive, or a stale one, in chunks of a flow run each."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

from flows.artifacts import progress_bar
from flows.exchange import PLAIN, fetch_new, push_masks
from flows.forms import ArchiveRequest, Processing
from medseg.batch import run_batch
from medseg.cases import Case, plan_tree
from medseg.errors import BatchError
from medseg.inputs import find_inputs
from medseg.ledger import RECORD
from medseg.triage import Action, Triage


@task(name="look-through", task_run_name="look-through", **PLAIN)
def look_through(request: ArchiveRequest, folder: Path) -> list[Path]:
    """Ask the records what has to be done, and write it down in files of a chunk each."""
    how = request.how
    triage = Triage(request.settings, retry_failed=request.retry_failed, **how)
    inputs = find_inputs([str(request.root)], channels=triage.channels, apart=False, options=how["options"])
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
def segment_chunk(chunk: Path, processing: Processing) -> int:
    """Segment some studies with one load of the model; gives the number of those that failed.

    Args:
        chunk: Which, as `look_through` wrote it down; it lives as long as that flow run.
        processing: How.
    """
    cases: list[Case] = pickle.loads(chunk.read_bytes())
    progress = progress_bar("Studies done")
    failed = []
    results = run_batch(cases, processing.settings, progress=lambda case: _silent, **processing.how)
    for number, result in enumerate(results, start=1):
        get_run_logger().info("%d of %d: %s.", number, len(cases), "failed" if result.error else result.status)
        if result.error is not None:
            failed.append({"study": str(result.case.mask), "reason": str(result.error)})
        progress(number, len(cases))
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
    if request.pacs:
        fetch_new(request.pacs, request.root)
    with tempfile.TemporaryDirectory() as folder:
        chunks = look_through(request, Path(folder))
        failed = sum(segment_chunk(chunk, request.alone()) for chunk in chunks)
    if request.pacs and request.pacs.push:
        push_masks(request.pacs, sorted(path.parent for path in request.output.rglob(RECORD)))
    if failed:
        raise BatchError(f"{failed} studies failed; each has its reason in failed.json, and in the chunks' artifacts.")
    return len(chunks)


def _silent(done: int, total: int) -> None:
    """Windows are too short-lived for Prefect."""
