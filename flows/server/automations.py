"""The server's automations: end runs without a heartbeat, and report lines that failed."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.server.environment import HEARTBEAT_S

_SILENCE_S = 3 * HEARTBEAT_S
_START_S = 1800
_BLOCK = "quantmill-notify"


def watchdogs() -> list[AutomationCore]:
    """Return the automations that end runs whose worker or process is gone.

    They wait for any event of the run, not for known end states: the end state of a failed variant has the name of its error.
    So each state that a worker or the run itself sets must start a wait. Scheduled runs need no wait, as any worker can take
    them; Prefect itself ends runs that stay in `Cancelling`.
    """
    return [
        _lost(
            "quantmill: run without heartbeat",
            # A run may die before its first heartbeat, which comes a moment after the start. The server gives `Running`
            # another name in a run that starts again: after a Retry, an approval, or the end of another worker.
            {*_events("Running", "Rerunning", "Retrying"), "prefect.flow-run.heartbeat"},
            _SILENCE_S,
            f"no heartbeat for {_SILENCE_S} s: the worker or the run's process is gone",
        ),
        _lost(
            "quantmill: run that never started",
            # A worker sets `Submitting` before it starts the process, and may die in between; a Kubernetes worker sets
            # `InfrastructurePending` while a pod waits for a node.
            _events("Pending", "Submitting", "InfrastructurePending"),
            _START_S,
            f"taken by a worker, not started within {_START_S} s: the worker is gone, or there is no room",
        ),
    ]


def _events(*states: str) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


def _lost(name: str, after: set[str], silence_s: int, words: str) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=f"Ends a run as crashed: {words}. Made by `quantmill bootstrap`.",
        trigger=EventTrigger(
            after=after,
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": "prefect.tag.quantmill", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=words)],
    )


async def failure_notice(url: str, client: PrefectClient) -> AutomationCore:
    """Return the automation that posts to `url` when a line fails; a Prefect block hides the URL."""
    return AutomationCore(
        name="quantmill: line failed",
        description="Posts to the webhook that QUANTMILL_NOTIFY_URL named. Made by `quantmill bootstrap`.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.name": "compress", "prefect.resource.role": "flow"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=await _webhook(url, client), payload=_PAYLOAD)],
    )


_PAYLOAD = """{
  "text": {{ ("quantmill: " ~ flow_run.name ~ ": " ~ flow_run.state.name ~ ": " ~ flow_run.state.message) | tojson }},
  "flow_run": "{{ flow_run.id }}"
}"""


async def _webhook(url: str, client: PrefectClient) -> UUID:
    """Return the id of the block that holds the URL; create or update the block first."""
    try:
        found = await client.read_block_document_by_name(_BLOCK, "webhook", include_secrets=True)
        if found.data.get("url") == url:
            return found.id
    except ObjectNotFound:
        pass
    block: Any = Webhook(url=url)
    return UUID(str(await block.asave(_BLOCK, overwrite=True, client=client)))


async def apply(automation: AutomationCore, client: PrefectClient) -> str:
    """Create or update the server's automation of the same name; return what was done.

    An automation that somebody switched off in the dashboard stays off.
    """
    found = await client.read_automations_by_name(automation.name)
    if not found:
        await client.create_automation(automation)
        return "created"
    core = AutomationCore.model_validate(found[0].model_dump())
    left_out = {"enabled", "tags", "owner_resource"}  # the server returns no owner, and accepts none in an update
    if core.model_dump(exclude=left_out) == automation.model_dump(exclude=left_out):
        return "unchanged"
    wanted = automation.model_dump(exclude={"owner_resource"}) | {"enabled": core.enabled}
    await client.update_automation(found[0].id, AutomationCore.model_validate(wanted))
    return "updated"
