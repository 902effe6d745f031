"""Starts a variant where it belongs. This release has one place: threads of this process, a limited number at a time."""

import asyncio

from prefect import tags

from flows.variant import recall, variant
from quantmill.artifact import VariantJob
from quantmill.report import Outcome
from quantmill.settings import load_settings
from quantmill.store.store import Store
from tasks.quantize import find_artifact


async def build(job: VariantJob, store: Store) -> Outcome:
    """Return what became of one job; finished work is looked up, a failure is an outcome."""
    if found := recall(job, store):
        return found
    with tags("quantmill", job.spec.method, job.spec.format):
        state = await asyncio.to_thread(variant, job, return_state=True)
    if state.is_completed() and (made := recall(job, store)):
        return made.model_copy(update={"cached": False})
    return Outcome(
        name=job.name,
        artifact=find_artifact(job, store),
        error=state.name or "EngineError",
        message=state.message or "the variant's run ended without a result",
    )


async def build_all(jobs: list[VariantJob], store: Store) -> dict[str, Outcome]:
    """Return name -> outcome; no job's failure stops another."""
    limit = asyncio.Semaphore(load_settings().local_jobs)

    async def one(job: VariantJob) -> Outcome:
        async with limit:
            return await build(job, store)

    done = await asyncio.gather(*(one(job) for job in jobs))
    return {outcome.name: outcome for outcome in done}
