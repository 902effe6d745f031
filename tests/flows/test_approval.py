"""The question before publishing, through a real server.

In place of workers and dashboard the tests run the flow and set states.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry, Cancelled, Scheduled

from flows import approval
from quantmill.recipe.recipe import Recipe
from quantmill.records.report import Verdict
from tests import samples

pytestmark = pytest.mark.slow

ACCEPTED = Verdict(status="accepted")
RECIPE = Recipe.model_validate(
    {
        "model": {"source": "/models/m"},
        "variants": [{"method": "gguf", "type": ["Q8_0"]}],
        "publish": {"model": "m", "approval": True},
    }
)


class Line:
    """A run that asks, with what it accepted and what it was answered."""

    def __init__(self, client: PrefectClient) -> None:
        self.client, self.run = client, UUID(int=0)
        self.names, self.answers = ["a"], list[dict[str, Verdict]]()

    async def start(self) -> None:
        """Start it, and let it come to its question."""
        pool = f"ask-{uuid4().hex[:8]}"
        await self.client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        made = await self.client.create_deployment(
            flow_id=await self.client.create_flow_from_name("asks"), name=pool, work_pool_name=pool
        )
        self.run = (await self.client.create_flow_run_from_deployment(made, state=Scheduled())).id
        assert await self.work(fine) == "Suspended"

    async def work(self, publish: Callable[[], None]) -> str:
        """Do what a worker does with a scheduled run; return the name of the state that it ends in."""

        @flow(name="asks", persist_result=False)
        async def asks() -> None:
            outcomes = {name: samples.outcome(name) for name in self.names}
            self.answers.append(await approval.ask(RECIPE, outcomes, dict.fromkeys(self.names, ACCEPTED)))
            publish()

        run = await self.client.read_flow_run(self.run)
        ended: Any
        try:
            ended = await run_flow_async(asks, flow_run=run, parameters={}, return_type="state")
        except Pause as pause:
            ended = pause.state
        return str(ended.name)

    async def resume(self, publish: bool) -> None:
        answer = {"publish": publish, "reason": "the lawyers"}
        assert (await self.client.resume_flow_run(self.run, run_input=answer)).status == "ACCEPT"

    async def set(self, state: State) -> None:
        assert (await self.client.set_flow_run_state(self.run, state)).status == "ACCEPT"

    async def retry(self) -> None:
        """Do what the dashboard's button does."""
        await self.set(AwaitingRetry())


def fine() -> None:
    """Publish, with success."""


def fail() -> None:
    raise RuntimeError("the store is away")


def test_a_retry_takes_the_answer_to_the_same_question_and_asks_another(prefect_url: str) -> None:
    async def scenario() -> None:
        async with get_client() as client:
            line = Line(client)
            await line.start()
            await line.resume(publish=False)
            assert await line.work(fail) == "Failed"
            await line.retry()
            assert await line.work(fail) == "Failed"
            held = Verdict(status="rejected", reasons=("held back at the approval: the lawyers",))
            assert line.answers == [{"a": held}] * 2, "asked once"
            line.names.append("b")  # it failed before, and nobody has seen its figures
            await line.retry()
            assert await line.work(fine) == "Suspended"
            await line.resume(publish=True)
            assert await line.work(fine) == "Completed"
            assert line.answers[2:] == [{"a": ACCEPTED, "b": ACCEPTED}]

    asyncio.run(scenario())


def test_a_question_that_nobody_answered_is_asked_again(prefect_url: str) -> None:
    async def scenario() -> None:
        async with get_client() as client:
            line = Line(client)
            await line.start()
            await line.set(Cancelled())
            await line.retry()
            assert await line.work(fine) == "Suspended"
            await line.resume(publish=True)
            assert await line.work(fine) == "Completed"
            assert line.answers == [{"a": ACCEPTED}]

    asyncio.run(scenario())
