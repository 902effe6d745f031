"""Starts a variant where it belongs: on this machine, in threads of this process, or on the pool that its needs name."""

import asyncio

from prefect import tags

from flows import pool_runs
from flows.jobs import places
from flows.pools import Pool
from flows.recall import recall
from flows.variant import variant
from quantmill import planning
from quantmill.artifact import VariantJob
from quantmill.report import Outcome
from quantmill.settings import load_settings
from quantmill.store.store import Store
from tasks.quantize import find_artifact


class Dispatcher:
    """Builds variants: finished work is looked up, a failure is an outcome, and no job's failure stops another."""

    def __init__(self, store: Store, pools: tuple[Pool, ...] = (), device: str = "auto") -> None:
        """Build on `pools`, or without them on this machine, as many at once as the settings say."""
        self._store, self._pools, self._device = store, pools, device
        self._limit = asyncio.Semaphore(load_settings().local_jobs)

    async def build(self, job: VariantJob) -> Outcome:
        """Return what became of one job."""
        if found := recall(job, self._store):
            return found
        error, message, tried = await (self._on_a_pool(job) if self._pools else self._here(job))
        if made := recall(job, self._store):
            return made.model_copy(update={"cached": False, "tried": tried})
        return Outcome(
            name=job.name,
            artifact=find_artifact(job, self._store),
            error=error or "EngineError",
            message=message or "the variant's run ended without a result",
            tried=tried,
        )

    async def build_all(self, jobs: list[VariantJob]) -> dict[str, Outcome]:
        """Return name -> outcome. On pools what takes longest is started first: the others fill the gaps that it leaves."""
        ordered = sorted(jobs, key=lambda job: -planning.cost(job.spec)) if self._pools else jobs
        done = await asyncio.gather(*(self.build(job) for job in ordered))
        by_name = {outcome.name: outcome for outcome in done}
        return {job.name: by_name[job.name] for job in jobs}

    async def _here(self, job: VariantJob) -> tuple[str, str, tuple[str, ...]]:
        async with self._limit:
            with tags("quantmill", job.spec.method, job.spec.format):
                state = await asyncio.to_thread(variant, job, return_state=True)
        return ("", "", ()) if state.is_completed() else (state.name or "", state.message or "", ())

    async def _on_a_pool(self, job: VariantJob) -> tuple[str, str, tuple[str, ...]]:
        fitting = places(job.spec, job.snapshot, self._device, self._pools)
        run, tried = await pool_runs.run_on_pools(job, fitting, lambda: recall(job, self._store) is not None)
        state = run.state
        if state is None or state.is_completed():
            return "", "", tuple(tried)
        return state.name or "", state.message or "", tuple(tried)
