"""Runs on pools against a real server; in place of workers the tests set states, as workers do."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import AsyncClientContext
from prefect.states import Cancelled, Completed, Failed, Running, Scheduled

from flows.dispatch import Dispatcher
from flows.pools import runs as pool_runs
from flows.pools.pools import Pool
from flows.pools.run_watch import RunWatch
from quantmill.records.report import Outcome
from quantmill.store.places import open_store
from tests import samples

pytestmark = pytest.mark.slow


async def deployment(client: PrefectClient, pool: str) -> UUID:
    """Make a pool with the deployment that variants are started by; nobody polls it."""
    await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    flow = await client.create_flow_from_name(pool_runs.FLOW)
    return await client.create_deployment(flow_id=flow, name=pool, work_pool_name=pool, work_queue_name="variants")


async def runs_once_there_are(count: int, made: UUID, client: PrefectClient) -> list[FlowRun]:
    """Return a deployment's runs, which are so many, and no more two turns later."""
    wanted, found = DeploymentFilter(id=DeploymentFilterId(any_=[made])), list[FlowRun]()
    async with asyncio.timeout(60):
        while len(found) < count:
            found = await client.read_flow_runs(deployment_filter=wanted)
            await asyncio.sleep(0.2)
    await asyncio.sleep(2.5)
    found = await client.read_flow_runs(deployment_filter=wanted)
    assert len(found) == count
    return found


def test_many_runs_are_one_question_a_second(prefect_url: str) -> None:
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.url.path)

    async def scenario() -> list[State | None]:
        async with AsyncClientContext.get_or_create() as context:
            client = context.client
            made = await deployment(client, f"watch-{uuid4().hex[:8]}")
            runs = [await client.create_flow_run_from_deployment(made, state=Scheduled()) for _ in range(40)]
            watch, hooks = RunWatch(), client._client.event_hooks
            begun = asyncio.gather(*(watch.begun(run) for run in runs))
            ended = asyncio.gather(*(watch.ended(run) for run in runs))
            client._client.event_hooks = {**hooks, "request": [note]}
            await asyncio.sleep(4)
            client._client.event_hooks = hooks
            for run in runs:
                await client.set_flow_run_state(run.id, Running(), force=True)
            assert [run.state is not None and run.state.is_running() for run in await begun] == [True] * 40
            assert not ended.done()
            for run in runs[1:]:
                await client.set_flow_run_state(run.id, Failed(name="OutOfMemory"), force=True)
            await client.delete_flow_run(runs[0].id)
            return [run.state for run in await ended]

    deleted, *others = asyncio.run(scenario())
    assert 4 <= len(asked) <= 12, "two questions a turn, whatever the number of runs"
    assert deleted is None, "a run that somebody deleted is not waited for"
    assert [state and state.name for state in others] == ["OutOfMemory"] * 39


def test_few_wait_for_a_place_and_the_longest_are_among_them(prefect_url: str, tmp_path: Path) -> None:
    short = [samples.job(f"short-{n}", "gguf", type="Q8_0") for n in range(pool_runs.AHEAD)]
    jobs = [*short, *(samples.job(f"long-{n}", "autoround") for n in range(10))]

    async def scenario() -> tuple[set[str], dict[str, Outcome]]:
        async with get_client() as client:
            name = f"ahead-{uuid4().hex[:8]}"
            made = await deployment(client, name)
            dispatcher = Dispatcher(open_store(tmp_path), (Pool(name=name, memory=10**12),))
            built = asyncio.create_task(dispatcher.build_all(jobs))
            first = await runs_once_there_are(pool_runs.AHEAD, made, client)
            for run in first[:10]:
                await client.set_flow_run_state(run.id, Running(), force=True)
            for run in await runs_once_there_are(len(jobs), made, client):
                await client.set_flow_run_state(run.id, Completed(), force=True)
            return {run.name for run in first}, await built

    waiting, outcomes = asyncio.run(scenario())
    assert {f"long-{n}" for n in range(10)} <= waiting
    assert list(outcomes) == [job.name for job in jobs]
    assert {made.message for made in outcomes.values()} == {"the variant's run ended without a result"}


def test_a_line_started_anew_waits_for_the_run_on_the_larger_pool(prefect_url: str) -> None:
    """It went there after a run that was out of memory; a second one would be made beside it."""
    job = samples.job("moved")

    async def never() -> bool:
        return False

    async def scenario() -> tuple[FlowRun, list[str], int]:
        async with get_client() as client:
            names = [f"{size}-{uuid4().hex[:8]}" for size in ("small", "large")]
            made = [await deployment(client, name) for name in names]
            pools = [Pool(name=name, memory=10**n) for n, name in enumerate(names, 9)]
            run = await pool_runs._start(job, pools[0], 0)
            await client.set_flow_run_state(run.id, Failed(name="OutOfMemory"), force=True)
            moved = await pool_runs._start(job, pools[1], 1)
            await client.set_flow_run_state(moved.id, Running(), force=True)
            second = asyncio.create_task(pool_runs.PoolRuns().run(job, pools, never))
            await asyncio.sleep(4)
            await client.set_flow_run_state(moved.id, Failed(name="EngineError"), force=True)
            async with asyncio.timeout(30):
                ended, tried = await second
            assert ended.id == moved.id
            return ended, tried, len(await runs_once_there_are(1, made[0], client))

    ended, tried, on_small = asyncio.run(scenario())
    assert ended.state is not None
    assert (ended.state.name, tried, on_small) == ("EngineError", [], 1)


@pytest.mark.parametrize(("state", "reason"), [(Cancelled(), "Shared"), (Running(), "Cancelled")])
def test_what_a_person_cancelled_stays_so(prefect_url: str, state: State, reason: str) -> None:
    """A run that another line waits for too: it went with that line, or somebody ended it by itself."""

    @task
    def wait() -> None:
        """Wait for a variant."""

    async def scenario() -> str:
        async with get_client() as client:
            made = await deployment(client, f"cancel-{uuid4().hex[:8]}")
            flow = await client.create_flow_from_name("compress")
            deployed = await client.create_deployment(flow_id=flow, name=f"line-{uuid4().hex[:8]}")
            line = await client.create_flow_run_from_deployment(deployed)
            waiting = await client.create_task_run(wait, line.id, dynamic_key="0")
            run = await client.create_flow_run_from_deployment(made, parent_task_run_id=waiting.id)
            await client.set_flow_run_state(line.id, state, force=True)
            await client.set_flow_run_state(run.id, Cancelled(), force=True)
            return await pool_runs._reason(await client.read_flow_run(run.id))

    assert asyncio.run(scenario()) == reason
