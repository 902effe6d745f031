"""Finds stored results: the outcome of a variant, and the summary of a whole run. Imports no Prefect."""

import time
from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from flows import conversions, jobs
from flows.pools import read_pools
from flows.prepare import look_up
from quantmill.errors import BlobMissing, NotCached, NotFound, VerificationError
from quantmill.files import keys
from quantmill.recipe.recipe import Recipe
from quantmill.records.artifact import StageResult
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome, RunSummary
from quantmill.records.run import Run
from quantmill.settings import Settings
from quantmill.store.channels import read_channel
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks import publish, register, report
from tasks.evaluate import find_report
from tasks.model import config_forms, licences
from tasks.quantize import find_artifact
from tasks.sandbox import ClosedSandbox


def recall(job: VariantJob, store: Store) -> Outcome | None:
    """Return the stored outcome of a variant, or None."""
    artifact = find_artifact(job, store)
    report = find_report(job, artifact, store) if artifact else None
    if artifact is None or report is None:
        return None
    marks = config_forms.missed(artifact, store) if job.spec.method == "imported" else ()
    return Outcome(name=job.name, artifact=artifact, report=report, cached=True, marks=marks)


def recall_run(recipe: Recipe, settings: Settings) -> RunSummary | None:
    """Return the stored summary of a run, or None if a part of the run is missing.

    Needs no Prefect server and starts no process.
    """
    store, closed = configured_store(settings), ClosedSandbox(settings)
    pools = read_pools(settings.pools) if settings.pools else ()
    try:
        plan = look_up(recipe, settings, store, closed, pools)
    except NotCached:
        return None
    recalled = {job.name: recall(job, store) for job in (plan.baseline, *plan.others)}
    outcomes = {name: outcome for name, outcome in recalled.items() if outcome}
    baseline = outcomes.get(plan.baseline.name)
    if baseline is None or len(outcomes) < len(recalled):
        return None
    forbidden = licences.forbidden(plan.variants, settings.licenses)
    run = Run(recipe, tuple(plan.variants), baseline, outcomes, forbidden=forbidden)
    key = run_key(run)
    done = store.look_up("run", key)
    if done is None:
        return None
    try:
        summary = RunSummary.model_validate(done.value)
        judged = conversions.recall_judged(plan, outcomes, store)
        if judged is None or not _says(summary, judged) or (seq := _seq_of(summary, store)) is None:
            return None
        baseline = judged[plan.baseline.name]
        floor = jobs.noise_floor(plan, baseline, judged)
        run = replace(run, baseline=baseline, outcomes=judged, noise_floor=floor)
        published = [row.name for row in summary.variants if row.manifest]
        signing_key = settings.signing_key
        if signing_key and not publish.attest_published(run, published, store, signing_key):
            return None
    except (ValidationError, NotFound, VerificationError, BlobMissing):
        return None  # a part is damaged or missing: a new run makes it again
    told = register.run_of(key, store) or summary.mlflow_run
    summary = summary.model_copy(update={"channel_seq": seq, "mlflow_run": told})
    written = settings.home / "reports" / summary.model / "summary.json"
    if not written.exists() or written.read_bytes() != report.document(summary):
        report.write(summary, recipe.gates, settings.home)
    rows = tuple(row.model_copy(update={"cached": True}) for row in summary.variants)
    return summary.model_copy(update={"variants": rows, "timings": {}})


def _says(summary: RunSummary, outcomes: Mapping[str, Outcome]) -> bool:
    """Return whether no outcome failed and the summary has all their marks."""
    rows = ((row, outcomes[row.name]) for row in summary.variants)
    return all(not outcome.error and {*outcome.marks} <= {*row.marks} for row, outcome in rows)


def remember_run(run: Run, summary: RunSummary, store: Store) -> None:
    """Store the summary of a run without failed variants; a rerun returns it.

    With `publish.approval` every variant must be published as well, so that a rerun asks again about the others.
    """
    asked = run.recipe.publish.approval
    held_back = asked and any(not row.manifest and row.status != "failed" for row in summary.variants)
    if not held_back and all(row.status != "failed" for row in summary.variants):
        value = summary.model_dump(mode="json")
        store.record(StageResult(stage="run", key=run_key(run), value=value, made_at=time.time()))


def _seq_of(summary: RunSummary, store: Store) -> int | None:
    """Return the sequence number of the summary's channel, or None if a published part is missing."""
    manifests = {row.name: row.manifest for row in summary.accepted if row.manifest}
    for variant, digest in manifests.items():
        published = {version.manifest for version in store.versions(summary.model, variant)}
        store.manifest(digest)  # raises if the manifest is damaged
        if digest not in published or store.revocation(summary.model, variant, digest):
            return None
    if not summary.channel:
        return 0
    held = read_channel(store, summary.model, summary.channel)
    if publish.missing_from(held, manifests):
        return None
    return held.seq if held else 0


def run_key(run: Run) -> str:
    """Return the key of a run's summary.

    The key covers the recipe, the artifacts, the reports, and which variants may not be published.
    """
    made = {name: outcome.artifact.digest for name, outcome in run.outcomes.items() if outcome.artifact}
    reports = {name: keys.digest(outcome.report) for name, outcome in run.outcomes.items() if outcome.report}
    return keys.stage_key("run", recipe=run.recipe, artifacts=made, reports=reports, forbidden=run.forbidden)
