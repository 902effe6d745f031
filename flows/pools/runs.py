"""Runs variants on Prefect pools: starts deployment runs, waits, and retries if that can help.

An idempotency key finds a run again, so a parent that was killed and started anew waits for the runs of its
predecessor. Runs that failed before this parent began do not count as tries.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_run

from flows.pools.pools import Pool
from flows.pools.run_watch import RunWatch, patiently
from quantmill.errors import RecipeError, RequestError
from quantmill.recipe.recipe import default_model_name
from quantmill.records.job import VariantJob

FLOW = "variant"
TRIES = 3
"""The maximum number of starts of a variant, for any reason."""
AHEAD = 32
"""The maximum number of a line's runs that wait for a slot on a pool.

At each look every worker lists all waiting runs with all their parameters.
"""
_LOST = ("Crashed", "Killed", "Shared")
_PAUSE_S = 10.0  # a late `Crashed` may still hit a run that is started at once


async def check_pools(pools: tuple[Pool, ...]) -> None:
    """Raise RequestError unless the server has every pool's deployment, queue and job variables.

    Prefect itself would make a queue of any name, and ignore an unknown job variable.
    """
    async with get_client() as client:
        for pool in pools:
            try:
                deployment = await client.read_deployment_by_name(f"{FLOW}/{pool.name}")
                work_pool = await client.read_work_pool(deployment.work_pool_name or pool.name)
            except ObjectNotFound as error:
                raise RequestError(
                    f"pool {pool.name}: the Prefect server has no such pool, or no deployment {FLOW}/{pool.name};"
                    " `quantmill bootstrap` makes both"
                ) from error
            queues = [queue.name for queue in await client.read_work_queues(work_pool_name=work_pool.name)]
            if pool.queue not in queues:
                raise RequestError(f"pool {pool.name}: no work queue {pool.queue!r}; it has {', '.join(queues)}")
            known = work_pool.base_job_template.get("variables", {}).get("properties", {})
            for name in pool.job_variables:
                if name.partition(".")[0] not in known:
                    raise RequestError(
                        f"pool {pool.name}: unknown job variable {name!r}; its template takes {', '.join(sorted(known))}"
                    )


class PoolRuns:
    """Runs the variants of one line on pools."""

    def __init__(self) -> None:
        self._watch = RunWatch()
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AHEAD))

    async def run(
        self, job: VariantJob, pools: list[Pool], is_done: Callable[[], Awaitable[bool]]
    ) -> tuple[FlowRun, list[str]]:
        """Return the variant's last run, and the failed tries before that run, in words.

        `is_done` says whether the store has the variant's results: they may be gone since a run completed.

        After out of memory the next larger pool of `pools` is tried, after a lost worker the same pool. An engine's error
        is not tried again.
        """
        tried: list[str] = []
        place = 0
        for attempt in itertools.count():
            found, run = await self._once(job, pools[place], attempt)
            if run.state is None or (run.state.is_completed() and await is_done()):
                return run, tried
            larger = next((n for n in range(place + 1, len(pools)) if pools[n].memory > pools[place].memory), None)
            if found.state is not None and found.state.is_final():
                # The run ended before this line asked for it: a try of an earlier line. Find that line's next run.
                if found.state.name == "OutOfMemory" and larger is not None:
                    place = larger
                continue
            reason = await _reason(run)
            helps = reason in _LOST or (reason == "OutOfMemory" and larger is not None)
            if len(tried) + 1 >= TRIES or not helps:
                break
            tried.append(f"{reason} on {pools[place].name}")
            if reason == "OutOfMemory" and larger is not None:
                place = larger
            else:
                await asyncio.sleep(_PAUSE_S)
            get_run_logger().warning("%s: %s; tried again on %s", job.name, tried[-1], pools[place].name)
        return run, tried

    async def _once(self, job: VariantJob, pool: Pool, attempt: int) -> tuple[FlowRun, FlowRun]:
        """Start a run, or find the run with the same key; return the run as found and as ended."""
        async with self._places[pool.name]:
            found = await patiently(partial(_start, job, pool, attempt))
            run = await self._watch.begun(found)
        return found, await self._watch.ended(run)


async def _start(job: VariantJob, pool: Pool, attempt: int) -> FlowRun:
    """Start a run, or find the run with the same idempotency key."""
    return await arun_deployment(
        f"{FLOW}/{pool.name}",
        parameters={"job": job.model_dump(mode="json")},
        flow_run_name=job.name,
        idempotency_key=f"{job.artifact_key[:32]}:{job.report_key[:32]}:{pool.name}:{attempt}"
        + (f":{job.measure_again}" if job.measure_again else ""),
        work_queue_name=pool.queue,
        job_variables=dict(pool.job_variables),
        tags=["quantmill", job.spec.method, job.spec.format, _model(job)],
        timeout=0,
    )


def _model(job: VariantJob) -> str:
    """Return the tag by which the dashboard finds the runs of one model."""
    try:
        return default_model_name(job.snapshot.origin.request.source)
    except RecipeError:
        return "model"


async def _reason(run: FlowRun) -> str:
    """Return how a run ended: the state's name, which is the error's class for a failed variant.

    `Shared` means that another line was cancelled together with this run, which this line still wants. `Cancelled` means
    that a person cancelled the run, and it stays so.
    """
    if run.state is None or run.state.is_crashed():
        return "Crashed"
    if not run.state.is_cancelled():
        return run.state.name or "EngineError"
    if run.parent_task_run_id is None:
        return "Cancelled"
    async with get_client() as client:
        try:
            waiting = await patiently(partial(client.read_task_run, run.parent_task_run_id))
            if waiting.flow_run_id is None or str(waiting.flow_run_id) == str(this_run.id):
                return "Cancelled"
            other = await patiently(partial(client.read_flow_run, waiting.flow_run_id))
        except ObjectNotFound:
            return "Cancelled"
    gone = other.state is not None and other.state.type in (StateType.CANCELLING, StateType.CANCELLED)
    return "Shared" if gone else "Cancelled"
