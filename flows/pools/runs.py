"""Runs variants on Prefect pools: deployment runs, waited for, tried again where their end says that this can help.

Runs are found again by an idempotency key, so a parent that was killed and started anew waits for the runs that its
predecessor started. What ended badly before this parent began is history: it does not count as a try.
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
"""How often a variant is started in all, whatever the reasons."""
AHEAD = 32
"""Runs of a pool that a line lets wait for a place. Each worker lists all that wait at each look, with all that they hold."""
_LOST = ("Crashed", "Killed", "Shared")
_PAUSE_S = 10.0  # a late `Crashed` may still arrive over a run that is started at once


async def check_pools(pools: tuple[Pool, ...]) -> None:
    """Raise RequestError unless every pool has its deployment and takes the queue and job variables that are set for it.

    Prefect itself would make a queue of any name, and pass over a job variable that it does not know.
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
    """A line's runs on pools."""

    def __init__(self) -> None:
        """Start nothing."""
        self._watch = RunWatch()
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AHEAD))

    async def run(
        self, job: VariantJob, pools: list[Pool], is_done: Callable[[], Awaitable[bool]]
    ) -> tuple[FlowRun, list[str]]:
        """Return the run that ended well, or the last that did not, and what was tried before it, in words.

        `is_done` says whether the variant's results are in the store: a run that completed long ago may have lost them.

        Out of memory goes on to the next larger pool of `pools`; a worker that was lost is replaced by another run on the
        same pool; what the engine refuses is not tried again.
        """
        tried: list[str] = []
        place = 0
        for attempt in itertools.count():
            found, run = await self._once(job, pools[place], attempt)
            if run.state is None or (run.state.is_completed() and await is_done()):
                return run, tried
            larger = next((n for n in range(place + 1, len(pools)) if pools[n].memory > pools[place].memory), None)
            if found.state is not None and found.state.is_final():
                # It had ended before this line asked for it: a try of an earlier one, whose next run is found where it was.
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
        """Start a run, or find the one that has the same key; return it as it was then, and as it ended."""
        async with self._places[pool.name]:
            found = await patiently(partial(_start, job, pool, attempt))
            run = await self._watch.begun(found)
        return found, await self._watch.ended(run)


async def _start(job: VariantJob, pool: Pool, attempt: int) -> FlowRun:
    """Start a run, or find the one that has the same key."""
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
    """Return the name by which runs of one model are found in the dashboard."""
    try:
        return default_model_name(job.snapshot.origin.request.source)
    except RecipeError:
        return "model"


async def _reason(run: FlowRun) -> str:
    """Return how a run ended: the state's name, which is an error's class where a variant failed.

    A run that was cancelled with another line that waited for it is `Shared`: this line still wants it. What a person
    cancelled stays so.
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
