"""`deployments/prefect.yaml` -> deployments of a Prefect server, with their schedules and triggers.

Prefect's own `deploy` command reads the same file, but reports no changes, recreates every trigger, and makes each trigger twice
if two commands run at once.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import construct_schedule
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flows.pools import Pool
from flows.server.form import form_of
from quantmill.errors import RequestError
from quantmill.files.yaml_file import read_yaml

FILE = Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # the start of intervals, so that every bootstrap makes the same schedule
_FORBID = ConfigDict(frozen=True, extra="forbid")


class WorkPlace(BaseModel):
    """The work pool and queue of a deployment's runs."""

    model_config = _FORBID

    name: str = Field(description="The work pool.")
    work_queue_name: str = Field(description="The work pool's queue.")
    job_variables: dict[str, Any] = Field(default={}, description="Infrastructure settings of every run.")


class Limit(BaseModel):
    """How many runs work at once, and what happens to further runs."""

    model_config = _FORBID

    limit: int = Field(ge=1, description="Runs at once.")
    collision_strategy: str = Field(default="ENQUEUE", description="ENQUEUE, or CANCEL_NEW.")
    grace_period_seconds: int | None = Field(default=None, description="Seconds that a run may take to start.")


class Deployment(BaseModel):
    """One entry of the file, with Prefect's own field names."""

    model_config = _FORBID

    name: str = Field(description="The name; the full name is flow/name.")
    entrypoint: str = Field(pattern=r"^[\w.]+$", description="Module and function; a path would load the module twice.")
    description: str = Field(description="Shown above the form, in Markdown.")
    tags: list[str] = Field(default=[], description="Tags of every run.")
    work_pool: WorkPlace = Field(description="Where its runs go.")
    concurrency_limit: Limit | None = Field(default=None, description="How many runs at once.")
    parameters: dict[str, Any] = Field(default={}, description="Default values of the form.")
    schedules: list[dict[str, Any]] = Field(default=[], description="cron, interval (seconds) or rrule, with a slug.")
    triggers: list[dict[str, Any]] = Field(default=[], description="Events that start runs.")


class DeploymentList(BaseModel):
    """The deployments of the file; its other fields are for Prefect's own command."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    deployments: tuple[Deployment, ...] = Field(description="Deployments, in the order of their creation.")


def read_deployments(pools: tuple[Pool, ...], path: Path = FILE) -> list[Deployment]:
    """Return the file's entries for the listed pools, with a `variant` deployment for every pool.

    A pool without an entry of its own gets a copy of the first `variant` entry.

    Raises:
        RequestError: the file cannot be read, a field holds a value that is not allowed, or a pool is not listed.
    """
    entries = read_yaml(path, DeploymentList).deployments
    names = {pool.name for pool in pools}
    kept = [entry for entry in entries if entry.work_pool.name in names or not _is_variant(entry)]
    template = next((entry for entry in entries if _is_variant(entry)), None)
    if template is None:
        raise RequestError(f"{path}: deployments: none runs a variant (entrypoint: flows.variant.variant)")
    for pool in pools:
        if not any(_is_variant(entry) and entry.name == pool.name for entry in kept):
            place = template.work_pool.model_copy(update={"name": pool.name, "work_queue_name": pool.queue})
            kept.append(template.model_copy(update={"name": pool.name, "work_pool": place}))
    if missing := next((entry for entry in kept if entry.work_pool.name not in names), None):
        raise RequestError(f"{path}: {missing.name}: no pool {missing.work_pool.name} in the list of pools")
    return kept


def _is_variant(entry: Deployment) -> bool:
    return entry.entrypoint.endswith(".variant")


async def apply(entry: Deployment, client: PrefectClient) -> tuple[str, UUID, str]:
    """Create or update the server's deployment; return its full name, its id, and what was done."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry.entrypoint, use_placeholder_flow=False)
    name = f"{flow.name}/{entry.name}"
    schema = form_of(flow)
    schedules = [_schedule(dict(spec)) for spec in entry.schedules]
    try:
        found = await client.read_deployment_by_name(name)
        # An update recreates the schedules: those that somebody switched off must stay off.
        off = {schedule.slug for schedule in found.schedules if schedule.slug and not schedule.active}
        schedules = [each.model_copy(update={"active": each.active and each.slug not in off}) for each in schedules]
        if _is_as_wanted(found, entry, schema, schedules):
            return name, found.id, "unchanged"
    except ObjectNotFound:
        found = None
    limit = entry.concurrency_limit
    made = await client.create_deployment(
        flow_id=await client.create_flow_from_name(flow.name),
        name=entry.name,
        entrypoint=entry.entrypoint,
        description=entry.description,
        tags=entry.tags,
        work_pool_name=entry.work_pool.name,
        work_queue_name=entry.work_pool.work_queue_name,
        job_variables=entry.work_pool.job_variables,
        parameters=entry.parameters,
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=ConcurrencyOptions.model_validate(limit.model_dump(exclude={"limit"})) if limit else None,
        schedules=schedules,
        pull_steps=[],
    )
    return name, made, "updated" if found else "created"


def _schedule(spec: dict[str, Any]) -> DeploymentScheduleCreate:
    active, parameters, slug = spec.pop("active", True), spec.pop("parameters", {}), spec.pop("slug", None)
    if "interval" in spec:
        spec.setdefault("anchor_date", _EPOCH)
    return DeploymentScheduleCreate(
        schedule=construct_schedule(**spec), active=active, parameters=parameters, slug=slug
    )


def _is_as_wanted(
    found: DeploymentResponse, entry: Deployment, schema: dict[str, Any], schedules: list[DeploymentScheduleCreate]
) -> bool:
    """Return whether the server's deployment matches the entry; `active` of schedules is not compared."""
    limit, options = entry.concurrency_limit, found.concurrency_options
    held = found.global_concurrency_limit.limit if found.global_concurrency_limit else None

    def key(schedule: Any) -> tuple[Any, ...]:
        return schedule.slug or "", schedule.schedule.model_dump_json(), str(schedule.parameters)

    return (
        found.entrypoint == entry.entrypoint
        and found.description == entry.description
        and sorted(found.tags) == sorted(entry.tags)
        and (found.work_pool_name, found.work_queue_name) == (entry.work_pool.name, entry.work_pool.work_queue_name)
        and found.job_variables == entry.work_pool.job_variables
        and found.parameters == entry.parameters
        and found.parameter_openapi_schema == schema
        and held == (limit.limit if limit else None)
        and (options.model_dump(mode="json") if options else None)
        == (limit.model_dump(exclude={"limit"}) if limit else None)
        and sorted(map(key, found.schedules)) == sorted(map(key, schedules))
    )


def triggers_of(entry: Deployment, name: str, deployment: UUID) -> list[AutomationCore]:
    """Return the automations that start runs of a deployment; Prefect deletes both together."""
    automations = []
    for at, spec in enumerate(entry.triggers):
        trigger: Any = TypeAdapter(DeploymentTriggerTypes).validate_python({"name": f"{name} {at}", **spec})
        trigger.set_deployment_id(deployment)
        automations.append(trigger.as_automation())
    return automations
