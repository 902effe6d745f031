"""`quantmill bootstrap`: brings a Prefect server up to date with the lists of pools and deployments.

Safe to run twice, also at the same time.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker

from flows.pools import Pool
from flows.server import automations, deployments
from flows.server.deployments import Deployment
from flows.server.environment import HEARTBEAT_S
from quantmill.errors import RequestError, ServerError

POOLS = Path(__file__).resolve().parents[2] / "deployments" / "pools.yaml"
_LOCK = "quantmill-bootstrap"
_WAIT_S = 120.0


async def bootstrap(pools: tuple[Pool, ...], notify_url: str, tell: Callable[[str], None]) -> None:
    """Create or update pools, queues, deployments and automations.

    `tell` gets a line for each: its kind, its name, and whether it was created, updated or unchanged.

    Raises:
        RequestError: the list of deployments cannot be used.
        ServerError: the server refused a request, or another bootstrap did not end in time.
    """
    entries = deployments.read_deployments(pools)
    async with get_client() as client:
        try:
            await _make_lock(client)
            async with concurrency(_LOCK, strict=True, timeout_seconds=_WAIT_S, lease_duration=60):
                await _make(pools, entries, notify_url, client, tell)
        except PrefectHTTPStatusError as error:
            words = " ".join(error.response.text.split())[:300]
            raise ServerError(f"Prefect: {error.request.url.path}: {error.response.status_code} {words}") from error
        except httpx.HTTPError as error:
            raise ServerError(f"Prefect: {error.request.url.path}: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise ServerError(f"another bootstrap has been at work for {_WAIT_S:.0f} s; try again later") from error


async def _make_lock(client: PrefectClient) -> None:
    """Make the concurrency limit that lets one bootstrap work at a time.

    Automations have no unique names: two bootstraps at once would create each automation twice.
    """
    with suppress(ObjectAlreadyExists):
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=_LOCK, limit=1))


async def _make(
    pools: tuple[Pool, ...],
    entries: list[Deployment],
    notify_url: str,
    client: PrefectClient,
    tell: Callable[[str], None],
) -> None:
    for pool in pools:
        tell(f"pool {pool.name}: {await _pool(pool, client)}")
    for place, queue, slots in _queues(pools, entries):
        tell(f"queue {place}/{queue}: {await _queue(place, queue, slots, client)}")
    for entry in entries:
        name, made, done = await deployments.apply(entry, client)
        tell(f"deployment {name}: {done}")
        for trigger in deployments.triggers_of(entry, name, made):
            tell(f"trigger {trigger.name}: {await automations.apply(trigger, client)}")
    wanted = automations.watchdogs()
    if notify_url:
        wanted.append(await automations.failure_notice(notify_url, client))
    for automation in wanted:
        tell(f"automation {automation.name}: {await automations.apply(automation, client)}")


async def _pool(pool: Pool, client: PrefectClient) -> str:
    template = _template(pool)
    try:
        found = await client.read_work_pool(pool.name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=template))
        return "created"
    if found.type != pool.type:
        raise RequestError(f"pool {pool.name}: the server's is of type {found.type}, the list says {pool.type}")
    if found.base_job_template == template:
        return "unchanged"
    await client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))
    return "updated"


def _template(pool: Pool) -> dict[str, Any]:
    """Return the pool's job template, its own or Prefect's for processes, with variables for its runs."""
    if pool.template is None:
        template = ProcessWorker.get_default_base_job_template()
    else:
        try:
            template = json.loads(pool.template.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"pool {pool.name}: template: {pool.template}: {error}") from error
    try:
        variable = template["variables"]["properties"]["env"]
    except (KeyError, TypeError) as error:
        raise RequestError(f"pool {pool.name}: template: it has no variable `env`") from error
    # A run that inherits its worker's metrics port would find the port taken, and crash.
    wanted = {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_CLIENT_METRICS_ENABLED": "false",
    }
    variable["default"] = wanted | (variable.get("default") or {})
    return dict(template)


def _queues(pools: tuple[Pool, ...], entries: Iterable[Deployment]) -> list[tuple[str, str, int]]:
    """Return (pool, queue, slots) of the queues for variants, then of those for other deployments."""
    found = {(pool.name, pool.queue): pool.slots for pool in pools}
    for entry in entries:
        found.setdefault((entry.work_pool.name, entry.work_pool.work_queue_name), 0)
    return [(pool, queue, slots) for (pool, queue), slots in found.items()]


async def _queue(pool: str, name: str, slots: int, client: PrefectClient) -> str:
    try:
        found = await client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        await client.create_work_queue(name, concurrency_limit=slots or None, work_pool_name=pool)
        return "created"
    if (found.concurrency_limit or 0) == slots:
        return "unchanged"
    await client.update_work_queue(found.id, concurrency_limit=slots or None)
    return "updated"
