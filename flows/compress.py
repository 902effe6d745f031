"""The whole line for one model: download, calibrate, quantize, evaluate, gate, publish, register."""

import asyncio
import functools
import time
from collections.abc import Mapping

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import ValidationError

from flows import approval, artifacts, jobs, progress
from flows.dispatch import Dispatcher
from flows.pool_runs import check_pools
from flows.pools import Pool, read_pools
from flows.stages import Stages, is_deployed
from flows.variant import recall
from quantmill import keys
from quantmill.artifact import StageResult, VariantJob
from quantmill.errors import (
    BlobMissing,
    NotCached,
    NotFound,
    QuantmillError,
    RecipeError,
    VerificationError,
    error_named,
)
from quantmill.recipe import Recipe
from quantmill.report import Outcome, RunSummary
from quantmill.settings import Settings, load_settings
from quantmill.store.channels import read_channel
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks import (
    calibrate,
    convert,
    download,
    gate,
    landings,
    licenses,
    outbox,
    publish,
    remote,
    report,
    snapshots,
    summarize,
    support,
)
from tasks.quantize import find_body
from tasks.sandbox import PROGRESS, ClosedSandbox, Sandbox


def run_name() -> str:
    """Return what the run is called beside its flow: the model as it is published, else the source as it was written."""
    recipe: Recipe = flow_run.parameters["recipe"]
    try:
        return recipe.model_name
    except RecipeError:
        return recipe.model.source


@flow(name="compress", flow_run_name=run_name, persist_result=False)
async def compress(recipe: Recipe, landing: str = "") -> RunSummary | State[None]:
    """Return one verdict per variant, in the recipe's order; accepted ones are published.

    Args:
        recipe: The model, its texts, the variants to make, the gates, and where accepted variants go.
        landing: Leave it empty. `watch` fills it in, so that a model that landed is taken by one run.

    Raises:
        RequestError: the model or a text cannot be used; nothing was quantized.
        JobError: the baseline could not be made or measured.
    """
    settings, stages = load_settings(), Stages()
    store, sandbox = configured_store(settings), Sandbox(settings)
    if landing and not landings.begin(store, landing, str(flow_run.id)):
        return Completed(name="Duplicate", message="another run took this landing")
    jobs.require_somebody_to_ask(recipe, is_deployed())
    pools = await pools_in_use(settings)
    if is_deployed() and (done := await asyncio.to_thread(recall_run, recipe, settings)):
        await stages.run(artifacts.leave_report, done, settings)
        return done
    with artifacts.progress_shown(PROGRESS):
        origin = await stages.run(download.inspect_source, recipe.model, sandbox.home)
        checkpoints = await stages.run(download.inspect_checkpoints, recipe, origin, sandbox.home)
        snapshot = await stages.run(download.fetch_snapshot, origin, store, sandbox)
        support.require(recipe.expand(), snapshots.local_folder(snapshot, sandbox))
        tokens = await stages.run(
            calibrate.build_token_sets, recipe, snapshot, store, sandbox, jobs.uses_calibration(recipe)
        )
        plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, checkpoints, pools)
        dispatcher = Dispatcher(store, pools, recipe.device)
        progress.announce([plan.baseline.name, *(job.name for job in _all(plan))])
        baseline = await stages.watch("baseline", dispatcher.build(plan.baseline))
        if baseline.report is None:
            raise error_named(baseline.error, f"baseline: {baseline.message}")
        unconverted = await _convert(plan, stages, store, sandbox)
        known = unconverted | {baseline.name: baseline}
        ready = {job.name: job for job in _all(plan) if job.name not in known}
        outcomes = known | await stages.watch("variants", dispatcher.build_all(list(ready.values())))
        verdicts = {job.name: gate.decide(outcomes[job.name], baseline, recipe.gates) for job in plan.variants}
        verdicts = await approval.ask(recipe, outcomes, verdicts)
        run_id, forbidden = str(flow_run.id or ""), licenses.forbidden(plan.variants, settings.licenses)
        floor = noise_floor(plan, baseline, outcomes)
        published = await stages.run(
            publish.commit_accepted,
            recipe,
            plan.variants,
            outcomes,
            verdicts,
            store,
            floor,
            forbidden,
            run_id,
            settings.signing_key,
        )
        summary = summarize.summarize(
            recipe,
            plan.variants,
            baseline,
            outcomes,
            verdicts,
            published.manifests,
            published.held_back,
            floor,
            stages.timings,
        )
        entry = await stages.run(outbox.keep, recipe, summary, outcomes, sandbox.logs(plan.variants), store)
        delivery = await stages.run(_deliver, store, settings.tracking_uri)
        for problem in delivery.problems:
            progress.say(problem)
        seq = await stages.run(publish.promote, recipe, published.manifests, store)
        moved = {"channel": recipe.publish.channel, "channel_seq": seq}
        summary = summary.model_copy(
            update={"mlflow_run": delivery.runs.get(entry, ""), "timings": stages.timings} | moved
        )
        _remember(_run_key(recipe, outcomes, forbidden), recipe, summary, store)
        write_report(summary, recipe, settings)
        await stages.run(artifacts.leave_report, summary, settings)
        return summary


def recall_run(recipe: Recipe, settings: Settings) -> RunSummary | None:
    """Return the summary of a run of which nothing is missing, or None. Needs no Prefect server and starts no process."""
    store, closed = configured_store(settings), ClosedSandbox(settings)
    try:
        origin = download.inspect_source(recipe.model, closed.home, fetch=False)
        checkpoints = download.inspect_checkpoints(recipe, origin, closed.home, fetch=False)
        snapshot = download.fetch_snapshot(origin, store, closed)
        tokens = calibrate.build_token_sets(recipe, snapshot, store, closed, jobs.uses_calibration(recipe))
    except NotCached:
        return None
    pools = read_pools(settings.pools) if settings.pools else ()
    plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, checkpoints, pools)
    recalled = {job.name: recall(job, store) for job in (plan.baseline, *_all(plan))}
    outcomes = {name: outcome for name, outcome in recalled.items() if outcome}
    done = store.look_up("run", _run_key(recipe, outcomes, licenses.forbidden(plan.variants, settings.licenses)))
    if done is None or len(outcomes) < len(recalled):
        return None
    try:
        summary = RunSummary.model_validate(done.value)
        if (seq := _seq_of(summary, store)) is None:
            return None
        published = [job for job in plan.variants if job.name in {row.name for row in summary.variants if row.manifest}]
        floor = noise_floor(plan, outcomes[plan.baseline.name], outcomes)
        key = settings.signing_key
        if key and not publish.attest_published(recipe, published, outcomes, store, floor, key):
            return None
    except (ValidationError, NotFound, VerificationError, BlobMissing):
        return None  # damaged or gone: the run makes it whole
    summary = summary.model_copy(update={"channel_seq": seq})
    document = settings.home / "reports" / summary.model / "summary.json"
    if not document.exists() or document.read_bytes() != (summary.model_dump_json(indent=2) + "\n").encode():
        write_report(summary, recipe, settings)
    rows = tuple(row.model_copy(update={"cached": True}) for row in summary.variants)
    return summary.model_copy(update={"variants": rows, "timings": {}})


def _seq_of(summary: RunSummary, store: Store) -> int | None:
    """Return the sequence number of the summary's channel, or None where something of the publishing is missing."""
    manifests = {row.name: row.manifest for row in summary.accepted if row.manifest}
    for variant, digest in manifests.items():
        published = {version.manifest for version in store.versions(summary.model, variant)}
        if store.manifest(digest).digest not in published or store.revocation(summary.model, variant, digest):
            return None
    if not summary.channel:
        return 0
    held = read_channel(store, summary.model, summary.channel)
    if publish.missing_from(held, manifests):
        return None
    return held.seq if held else 0


async def pools_in_use(settings: Settings) -> tuple[Pool, ...]:
    """Return the pools that the settings name, each looked up at the server; none: variants run on this machine."""
    pools = read_pools(settings.pools) if settings.pools else ()
    await check_pools(pools)
    return pools


def noise_floor(plan: jobs.Plan, baseline: Outcome, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Return runtime -> mean KL that the baseline's own weights show there."""
    reports = {runtime: outcomes[job.name].report for runtime, job in plan.floors.items() if job.name in outcomes}
    for runtime in {"transformers", *(job.runtime for job in plan.variants)} - plan.floors.keys():
        reports[runtime] = baseline.report  # other libraries' layers in a transformers model
    return {runtime: abs(found.quality.mean_kl) for runtime, found in reports.items() if found}


@functools.wraps(outbox.deliver)
def _deliver(store: Store, uri: str) -> outbox.Delivery:
    """Register one line at a time: the first to open MLflow's SQLite file migrates it, which breaks where two do."""
    with remote.held(load_settings().home / "mlflow"):
        return outbox.deliver(store, uri)


async def _convert(plan: jobs.Plan, stages: Stages, store: Store, sandbox: Sandbox) -> dict[str, Outcome]:
    """Make the GGUF conversion where a method needs it; where it fails, those variants fail with its cause."""
    if not plan.conversion_key:
        return {}
    snapshot, needed = plan.baseline.snapshot, [job for job in _all(plan) if job.conversion_key]
    if all(recall(job, store) or find_body(job, store) for job in needed):
        return {}
    try:
        await stages.run(convert.convert_snapshot, snapshot, plan.conversion_key, plan.conversion_name, store, sandbox)
    except QuantmillError as error:
        return {job.name: Outcome(name=job.name, error=type(error).__name__, message=str(error)) for job in needed}
    return {}


def write_report(summary: RunSummary, recipe: Recipe, settings: Settings) -> dict[str, bytes]:
    """Leave the report's files in the home and return them, file name -> bytes."""
    folder = settings.home / "reports" / summary.model
    folder.mkdir(parents=True, exist_ok=True)
    pages = report.pages(summary, recipe.gates)
    for name, content in pages.items():
        (folder / name).write_bytes(content)
    return pages


def _all(plan: jobs.Plan) -> list[VariantJob]:
    return [*plan.floors.values(), *plan.variants]


def _run_key(recipe: Recipe, outcomes: Mapping[str, Outcome], forbidden: Mapping[str, str]) -> str:
    """Return the key of a run's summary: the recipe, just what was made and measured, and whether it may be published."""
    made = {name: outcome.artifact.digest for name, outcome in outcomes.items() if outcome.artifact}
    reports = {name: keys.digest(outcome.report) for name, outcome in outcomes.items() if outcome.report}
    return keys.stage_key("run", recipe=recipe, artifacts=made, reports=reports, forbidden=forbidden)


def _remember(key: str, recipe: Recipe, summary: RunSummary, store: Store) -> None:
    """Leave the summary of a run in which no variant failed: a rerun answers from it.

    Where a person is asked, only one that published what it could: what was held back is asked for again.
    """
    held_back = recipe.publish.approval and any(not row.manifest and row.status != "failed" for row in summary.variants)
    if not held_back and all(row.status != "failed" for row in summary.variants):
        value = summary.model_dump(mode="json")
        store.record(StageResult(stage="run", key=key, value=value, made_at=time.time()))
