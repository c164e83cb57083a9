"""What Prefect's server has seen of the flows that ran: for tests, all of which share one server."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Flow, FlowRun


def artifacts(key: str) -> list[str]:
    """What was shown under a key."""
    with get_client(sync_client=True) as client:
        return [str(one.data) for one in client.read_artifacts() if one.key == key]


def flow_runs(name: str) -> list[FlowRun]:
    """The runs of a flow."""
    with get_client(sync_client=True) as client:
        flows: dict[object, Flow] = {one.id: one for one in client.read_flows()}
        return [run for run in client.read_flow_runs() if flows[run.flow_id].name == name]


def told() -> str:
    """All names of runs and all artifacts, in one text."""
    with get_client(sync_client=True) as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
        shown = [(one.key, one.description, one.data) for one in client.read_artifacts()]
        return "\n".join([*(run.name for run in runs), *map(str, shown)])
