"""The people's choices that a bootstrap keeps, and the events that its watchdogs wait for."""

import asyncio
import inspect
from uuid import uuid4

import pytest
from prefect import states
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType

from flows.server import deployments
from flows.server.automations import watchdogs
from flows.server.deployments import Deployment

pytestmark = pytest.mark.slow


def test_a_schedule_that_was_switched_off_stays_off_when_its_deployment_is_updated(prefect_url: str) -> None:
    name = f"upkeep-{uuid4().hex[:8]}"

    def entry(description: str, seconds: int) -> Deployment:
        return Deployment(
            name=name,
            entrypoint="flows.watch.watch",
            description=description,
            work_pool={"name": name, "work_queue_name": "default"},
            schedules=[{"interval": seconds, "slug": slug} for slug in ("off", "on")],
        )

    async def scenario() -> None:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            full, made, done = await deployments.apply(entry("one", 300), client)
            assert done == "created"
            (off,) = (each.id for each in (await client.read_deployment(made)).schedules if each.slug == "off")
            await client.update_deployment_schedule(made, off, active=False)
            changes = [("one", 300, "unchanged"), ("two", 300, "updated"), ("two", 600, "updated")]
            for description, seconds, did in changes:
                assert await deployments.apply(entry(description, seconds), client) == (full, made, did)
                found = await client.read_deployment(made)
                assert {each.slug: each.active for each in found.schedules} == {"off": False, "on": True}
            assert found.description == "two"

    asyncio.run(scenario())


def test_a_run_is_awaited_from_every_state_that_a_worker_or_the_run_gives_it() -> None:
    """Prefect's own list of states, and `Rerunning`, which only its server's rules know."""
    made = [make() for name, make in inspect.getmembers(states, inspect.isfunction) if name[0].isupper()]
    begun = {state.name for state in made if state.type in (StateType.PENDING, StateType.RUNNING)} | {"Rerunning"}
    awaited = set[str]().union(*(watchdog.trigger.after for watchdog in watchdogs()))
    assert awaited - {"prefect.flow-run.heartbeat"} == {f"prefect.flow-run.{name}" for name in begun}
