"""What the server does by itself: runs without a sign of life are ended, and somebody is told of lines that failed."""

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
    """Return the automations that end runs which nobody works on any more.

    They wait for any event of the run, not for the known end states: a variant that failed ends under the name of its error.
    So each state that a worker or the run itself gives it has to start a wait. Scheduled ones, under whatever name, are for any
    worker to take; those that stay in `Cancelling` are Prefect's to clean up.
    """
    return [
        _lost(
            "quantmill: run without heartbeat",
            # It may die before its first beat, which comes a moment after it began. The server gives `Running` another name
            # in a run that begins once more: after a Retry, an approval, or another worker's end.
            {*_events("Running", "Rerunning", "Retrying"), "prefect.flow-run.heartbeat"},
            _SILENCE_S,
            f"no heartbeat for {_SILENCE_S} s: the worker or the run's process is gone",
        ),
        _lost(
            "quantmill: run that never started",
            # A worker says `Submitting` before it starts the process, and may die between; Kubernetes' says
            # `InfrastructurePending` while a pod waits for its place.
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
    """Return the automation that posts to `url` when a line failed; the address is kept in a block, which hides it."""
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
    """Return the block that holds the address, made or brought up to date."""
    try:
        found = await client.read_block_document_by_name(_BLOCK, "webhook", include_secrets=True)
        if found.data.get("url") == url:
            return found.id
    except ObjectNotFound:
        pass
    block: Any = Webhook(url=url)
    return UUID(str(await block.asave(_BLOCK, overwrite=True, client=client)))


async def apply(automation: AutomationCore, client: PrefectClient) -> str:
    """Make the server's automation of that name what it should be; return what was done.

    One that somebody switched off in the dashboard stays off.
    """
    found = await client.read_automations_by_name(automation.name)
    if not found:
        await client.create_automation(automation)
        return "created"
    core = AutomationCore.model_validate(found[0].model_dump())
    left_out = {"enabled", "tags", "owner_resource"}  # the server tells no owner, and takes none in an update
    if core.model_dump(exclude=left_out) == automation.model_dump(exclude=left_out):
        return "unchanged"
    wanted = automation.model_dump(exclude={"owner_resource"}) | {"enabled": core.enabled}
    await client.update_automation(found[0].id, AutomationCore.model_validate(wanted))
    return "updated"
