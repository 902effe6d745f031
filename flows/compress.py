"""The whole line for one model: download, calibrate, quantize, evaluate, gate, publish, register."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed

from flows import approval, conversions, jobs, sendable
from flows.dispatch import Dispatcher
from flows.needs import NEEDS
from flows.pools import Pool, check_pools, read_pools
from flows.prepare import prepare
from flows.recall import recall, recall_run, remember_run, run_key
from flows.show import pages, progress
from flows.stages import Stages, is_deployed
from quantmill.errors import QuantmillError, RecipeError, error_named
from quantmill.recipe.recipe import Recipe
from quantmill.records.report import Outcome, RunSummary
from quantmill.records.run import Run
from quantmill.settings import Settings, load_settings
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks import convert, judge, publish, register, report
from tasks.landing import landings
from tasks.model import config_forms, licences
from tasks.quantize import find_body
from tasks.sandbox import PROGRESS, Sandbox

FINISHED: ContextVar[Callable[[RunSummary], object]] = ContextVar("FINISHED", default=lambda _: None)
"""Called with a run's summary before MLflow is told: the command line writes `--json` then."""


def run_name() -> str:
    """Return the name of a flow run: the model's published name, else the source from the recipe."""
    recipe: Recipe = flow_run.parameters["recipe"]
    try:
        return recipe.model_name
    except RecipeError:
        return recipe.model.source


@flow(name="compress", flow_run_name=run_name, persist_result=False)
async def compress(recipe: Recipe, landing: str = "", measure_again: bool = False) -> RunSummary | State[None]:
    """Return one verdict per variant, in the recipe's order; accepted ones are published.

    Args:
        recipe: The model, its texts, the variants to make, the gates, and where accepted variants go.
        landing: Leave this empty. `watch` sets the landing, so that only one run takes a new model.
        measure_again: Measure the speed of every variant again; quantize no variant again.

    Raises:
        RequestError: the model or a text cannot be used; nothing was quantized.
        JobError: the baseline could not be made or measured.
    """
    settings, stages = load_settings(), Stages()
    store, sandbox = configured_store(settings), Sandbox(settings, str(flow_run.id or ""))
    if landing and not landings.begin(store, landing, str(flow_run.id)):
        return Completed(name="Duplicate", message="another run took this landing")
    sendable.require_somebody_to_ask(recipe, is_deployed())
    pools = await pools_in_use(settings)
    if is_deployed() and not measure_again and (done := await asyncio.to_thread(recall_run, recipe, settings)):
        await stages.run(pages.leave_report, done, settings)
        return done
    with pages.progress_shown(PROGRESS):
        plan = await prepare(recipe, settings, store, sandbox, pools, stages.run)
        sendable.require_sendable(plan, get_current_settings().server.api.max_parameter_size if pools else 0)
        dispatcher = Dispatcher(store, pools, recipe.device, str(flow_run.id or ""), measure_again)
        progress.announce([plan.baseline.name, *(job.name for job in plan.others)])
        baseline = await stages.watch("baseline", dispatcher.build(plan.baseline))
        if baseline.report is None:
            raise error_named(baseline.error, f"baseline: {baseline.message}")
        unmakeable, judged = await _make_needs(plan, baseline, stages, store, sandbox)
        known = unmakeable | {baseline.name: baseline}
        ready = {job.name: job for job in plan.others if job.name not in known}
        outcomes = judged(known | await stages.watch("variants", dispatcher.build_all(list(ready.values()))))
        verdicts = {job.name: judge.decide(outcomes[job.name], baseline, recipe.gates) for job in plan.variants}
        run = Run(
            recipe,
            tuple(plan.variants),
            baseline,
            outcomes,
            await approval.ask(recipe, outcomes, verdicts),
            jobs.noise_floor(plan, baseline, outcomes),
            licences.forbidden(plan.variants, settings.licenses),
            str(flow_run.id or ""),
            stages.began_at,
        )
        published = await stages.run(publish.commit_accepted, run, store, settings.signing_key)
        summary = judge.summarize(run, published.manifests, published.held_back, stages.timings)
        logs, key = sandbox.logs(plan.variants), run_key(run)
        entry = await stages.run(register.keep, recipe, summary, outcomes, logs, store, key)
        seq = await stages.run(publish.promote, recipe, published.manifests, store)
        moved = {"channel": recipe.publish.channel, "channel_seq": seq}
        summary = summary.model_copy(update={"timings": dict(stages.timings)} | moved)
        remember_run(run, summary, store)
        report.write(summary, recipe.gates, settings.home)
        await stages.run(pages.leave_report, summary, settings)
        FINISHED.get()(summary)
        return await _registered(summary, entry, stages, store, settings)


async def _registered(summary: RunSummary, entry: str, stages: Stages, store: Store, settings: Settings) -> RunSummary:
    """Tell MLflow about the run, and return the summary with the MLflow run.

    This comes last: whatever MLflow does, the line's own work is done.
    """
    delivery = await stages.run(register.deliver, store, settings.tracking_uri)
    for problem in delivery.problems:
        progress.say(problem)
    if run := delivery.runs.get(entry, ""):
        summary = summary.model_copy(update={"mlflow_run": run})
        report.write_summary(summary, settings.home)  # with the timings of the stored summary
        await stages.run(pages.leave_mlflow_link, summary, settings)
    return summary.model_copy(update={"timings": dict(stages.timings)})


async def pools_in_use(settings: Settings) -> tuple[Pool, ...]:
    """Return the pools from the settings, each checked on the server.

    Without pools variants run on this machine.
    """
    pools = read_pools(settings.pools) if settings.pools else ()
    await check_pools(pools)
    return pools


async def _make_needs(
    plan: jobs.Plan, baseline: Outcome, stages: Stages, store: Store, sandbox: Sandbox
) -> tuple[dict[str, Outcome], conversions.Judge]:
    """Run the stages that variants need; return the variants that failed, and a judge of all outcomes.

    A conversion is checked on a longer text if the evaluation windows are too short to show how the model treats long text.
    """
    failed = dict[str, Outcome]()
    if not plan.needs or baseline.artifact is None:
        return failed, dict
    config = config_forms.read_stored(baseline.artifact, store)
    tokens, conversion = conversions.tokens_to_check(plan, config), plan.needed(conversions.STAGE)
    checked = convert.find_long_text(conversion, tokens, store) if tokens else None
    for ref in plan.needs:
        waiting = [job for job in plan.others if ref in job.needs]
        to_check = ref.key == conversion and tokens and not checked
        if not to_check and all(recall(job, store) or find_body(job, store) for job in waiting):
            continue
        snapshot, key, name = plan.baseline.snapshot, ref.key, plan.model_name
        try:
            made = await stages.run(NEEDS[ref.stage].make, snapshot, key, name, store, sandbox)
            if to_check:
                checked = await stages.run(convert.score_long_text, snapshot, made, tokens, store, sandbox)
        except QuantmillError as error:
            said = {"error": type(error).__name__, "message": str(error)}
            failed |= {job.name: Outcome(name=job.name, **said) for job in waiting}
    if not conversion or any(job.needed(conversions.STAGE) and job.name in failed for job in plan.others):
        return failed, dict
    judged = partial(conversions.judge, plan, baseline, config, checked)
    return failed | {name: outcome for name, outcome in judged({}).items() if outcome.error}, judged
