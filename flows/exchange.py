"""Tasks that speak with a PACS; tried again when it or the disk fails, never when what is asked for is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, ValidationError

from flows.forms import Pacs, PacsQuery
from medseg.atomic import write_text
from medseg.errors import InputError, ResourceError, ServerError
from medseg.ledger import Record, read_record
from medseg.pacs.client import Client, Filters, RemoteSeries
from medseg.pacs.transfer import is_here, pull, push
from medseg.pacs.watch import NO_IMAGES

PUSHED = "pushed.json"


class Receipt(BaseModel):
    """pushed.json: which PACS has taken the mask of the record beside it."""

    server: str
    mask_sha256: str


async def is_passing(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may succeed: for want of memory, disk or network, never for a bad input."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, ResourceError | ServerError | OSError)


# What every task shares: truth lies on disk, so that Prefect keeps no result and looks up none.
PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
PATIENT: dict[str, Any] = {
    **PLAIN,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_passing,
}


@task(name="fetch-study", task_run_name="fetch", **PATIENT)
def fetch_study(pacs: Pacs, study: str, folder: Path) -> list[Path]:
    """Bring the image series of a study to `folder`, which are not there yet; gives theirs, named by hashes.

    Raises:
        InputError: If the PACS has no such study, or no images of it.
        ServerError: If it fails.
    """
    client = pacs.client()
    series = [one for one in client.series(study) if one.modality not in NO_IMAGES]
    if not series:
        raise InputError("The PACS has no image series of this study; check the UID and your access rights.")
    return [_fetch(client, one, folder) for one in series]


@task(name="fetch-new", task_run_name="fetch", **PATIENT)
def fetch_new(query: PacsQuery, folder: Path) -> int:
    """Bring the image series that a query finds to `folder`, which are not there yet; gives their number.

    Raises:
        ServerError: If the PACS fails.
    """
    client = query.client()
    found = [series for study in client.studies(Filters(date=query.date)) for series in client.series(study)]
    wanted = [one for one in found if one.modality not in NO_IMAGES]
    wanted = [one for one in wanted if not query.modalities or one.modality in query.modalities]
    for number, series in enumerate(wanted, start=1):
        _fetch(client, series, folder)
        get_run_logger().info("Series %d of %d is here.", number, len(wanted))
    return len(wanted)


@task(name="push-masks", task_run_name="push", **PATIENT)
def push_masks(pacs: Pacs, folders: list[Path]) -> int:
    """Send the masks of records to the PACS that it has not got from here yet, and give their number.

    Raises:
        ServerError: If the PACS fails or refuses; what it has taken is not sent again.
    """
    client = pacs.client()
    sent = 0
    for folder in folders:
        record = read_record(folder)
        if record is None or is_pushed(folder, record, pacs):
            continue
        push(client, [folder / record.outputs[0].name])
        receipt = Receipt(server=pacs.server, mask_sha256=record.outputs[0].sha256)
        write_text(folder / PUSHED, receipt.model_dump_json(indent=2) + "\n")
        sent += 1
    return sent


def is_pushed(folder: Path, record: Record, pacs: Pacs) -> bool:
    """Whether the PACS has taken the mask of a record as it is now."""
    try:
        receipt = Receipt.model_validate_json((folder / PUSHED).read_bytes())
    except (OSError, ValidationError):
        return False
    return receipt == Receipt(server=pacs.server, mask_sha256=record.outputs[0].sha256)


def _fetch(client: Client, series: RemoteSeries, folder: Path) -> Path:
    if not is_here(client, series, folder):
        pull(client, series, folder)
    return folder / series.folder
