"""Runs a variant on a Prefect pool: a deployment run, waited for, tried again where its end says that this can help.

Runs are found again by an idempotency key, so a parent that was killed and started anew waits for the runs that its
predecessor started. What ended badly before this parent began is history: it does not count as a try.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run as this_run

from flows.pools import Pool
from quantmill.artifact import VariantJob
from quantmill.errors import RecipeError, RequestError, ServerError
from quantmill.recipe import default_model_name

FLOW = "variant"
TRIES = 3
"""How often a variant is started in all, whatever the reasons."""
_LOST = ("Crashed", "Killed", "Shared")
_POLL_S = 1.0
_SERVER_AWAY_S = 900.0
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


async def run_on_pools(job: VariantJob, places: list[Pool], is_done: Callable[[], bool]) -> tuple[FlowRun, list[str]]:
    """Return the run that ended well, or the last that did not, and what was tried before it, in words.

    `is_done` says whether the variant's results are in the store: a run that completed long ago may have lost them.

    Out of memory goes on to the next larger pool of `places`; a worker that was lost is replaced by another run on the
    same pool; what the engine refuses is not tried again.
    """
    tried: list[str] = []
    place = 0
    for attempt in itertools.count():
        found = await _patiently(partial(_start, job, places[place], attempt))
        run = await _end_of(found)
        if run.state is None or (run.state.is_completed() and is_done()):
            return run, tried
        if found.state is not None and found.state.is_final():
            continue  # it had ended before this line asked for it: a try of an earlier one
        reason = await _reason(run)
        larger = next((n for n in range(place + 1, len(places)) if places[n].memory > places[place].memory), None)
        helps = reason in _LOST or (reason == "OutOfMemory" and larger is not None)
        if len(tried) + 1 >= TRIES or not helps:
            break
        tried.append(f"{reason} on {places[place].name}")
        if reason == "OutOfMemory" and larger is not None:
            place = larger
        else:
            await asyncio.sleep(_PAUSE_S)
        get_run_logger().warning("%s: %s; tried again on %s", job.name, tried[-1], places[place].name)
    return run, tried


async def _start(job: VariantJob, pool: Pool, attempt: int) -> FlowRun:
    """Start a run, or find the one that has the same key."""
    return await arun_deployment(
        f"{FLOW}/{pool.name}",
        parameters={"job": job.model_dump(mode="json")},
        flow_run_name=job.name,
        idempotency_key=f"{job.artifact_key[:32]}:{job.report_key[:32]}:{pool.name}:{attempt}",
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


async def _end_of(run: FlowRun) -> FlowRun:
    """Return the run once it has ended."""
    async with get_client() as client:
        while run.state is None or not run.state.is_final():
            await asyncio.sleep(_POLL_S)
            run = await _patiently(partial(client.read_flow_run, run.id))
    return run


async def _patiently(ask: Callable[[], Awaitable[FlowRun]]) -> FlowRun:
    """Return the server's answer; a server that is away for a while costs the runs nothing that work meanwhile.

    Raises:
        ServerError: it did not come back.
    """
    deadline = time.monotonic() + _SERVER_AWAY_S
    while True:
        try:
            return await ask()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                raise
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Prefect: no answer for {_SERVER_AWAY_S:.0f} s: {type(error).__name__}; start the line again,"
                    " it finds the variants that were made"
                ) from error
            await asyncio.sleep(_POLL_S)


async def _reason(run: FlowRun) -> str:
    """Return how a run ended: the state's name, which is an error's class where a variant failed.

    A run that was cancelled with another line that waited for it is `Shared`: this line still wants it.
    """
    if run.state is None or run.state.is_crashed():
        return "Crashed"
    if not run.state.is_cancelled():
        return run.state.name or "EngineError"
    if run.parent_task_run_id is None:
        return "Cancelled"
    async with get_client() as client:
        waiting = await client.read_task_run(run.parent_task_run_id)
    return "Cancelled" if str(waiting.flow_run_id) == str(this_run.id) else "Shared"
