"""`python -m flows.heartbeats`: have Prefect call a flow run crashed whose process died without a word.

The runs have to send heartbeats: PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 in the workers' environment.
"""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture

NAME = "medseg: runs that fell silent"

_SILENCE = timedelta(seconds=90)
_BEAT = "prefect.flow-run.heartbeat"
_END = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]


def install() -> Automation:
    """Install the automation unless it is there, and give it back."""
    try:
        return cast("Automation", Automation.read(name=NAME))
    except ValueError:
        pass
    trigger = EventTrigger(
        after={_BEAT},
        expect={_BEAT, *_END},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=_SILENCE,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message=f"No heartbeat for {_SILENCE.total_seconds():.0f} s.")
    return cast("Automation", Automation(name=NAME, trigger=trigger, actions=[action]).create())


if __name__ == "__main__":
    automation = install()
    print(f"{automation.name}  {automation.id}")
