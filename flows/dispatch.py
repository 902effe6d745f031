"""Starts a variant where it belongs: on this machine, in threads of this process, or on the pool that its needs name."""

import asyncio

from prefect import tags

from flows.jobs import places
from flows.pools import Pool, PoolRuns
from flows.recall import recall
from flows.variant import variant
from quantmill.records import planning
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome
from quantmill.settings import load_settings
from quantmill.store.store import Store
from tasks.evaluate import is_quiet_now
from tasks.quantize import find_artifact


class Dispatcher:
    """Builds variants: finished work is looked up, a failure is an outcome, and no job's failure stops another."""

    def __init__(
        self,
        store: Store,
        pools: tuple[Pool, ...] = (),
        device: str = "auto",
        run: str = "",
        measure_again: bool = False,
    ) -> None:
        """Build on `pools`, or without them on this machine, as many at once as the settings say.

        `measure_again`: speeds that are in the store are measured again, for the run of this id; else those alone that
        were measured beside other work, where this machine is quiet now.
        """
        self._run, self._measure_again = run, measure_again
        self._store, self._pools, self._device = store, pools, device
        self._limit = asyncio.Semaphore(load_settings().local_jobs)
        self._runs = PoolRuns()

    async def build(self, job: VariantJob) -> Outcome:
        """Return what became of one job."""
        return (await self.build_all([job]))[job.name]

    async def build_all(self, jobs: list[VariantJob]) -> dict[str, Outcome]:
        """Return name -> outcome. On pools what takes longest is started first: the others fill the gaps that it leaves."""
        ordered = sorted(jobs, key=lambda job: -planning.cost(job.spec)) if self._pools else jobs
        # Looked up before any is started: threads end in any order, and starts have one.
        found = {job.name: made for job, made in zip(ordered, await self._look_up(ordered), strict=True) if made}
        again = {name: {"measure_again": self._run or "again"} for name in await self._to_measure_again(ordered, found)}
        wanted = [job.model_copy(update=again.get(job.name, {})) for job in ordered]
        made = await asyncio.gather(*(self._make(job) for job in wanted if job.measure_again or job.name not in found))
        found |= {outcome.name: outcome for outcome in made}
        return {job.name: found[job.name] for job in jobs}

    async def _to_measure_again(self, jobs: list[VariantJob], found: dict[str, Outcome]) -> list[str]:
        """Return which of the variants that were found are measured again."""
        if self._measure_again:
            return list(found)
        busy = [job for job in jobs if job.name in found and (report := found[job.name].report) and report.busy]
        if not busy or self._pools:  # whether a worker's machine is quiet cannot be seen from here
            return [job.name for job in busy]
        limit = load_settings().busy_share
        quiet = {
            device: await asyncio.to_thread(is_quiet_now, device, limit) for device in {job.device for job in busy}
        }
        return [job.name for job in busy if quiet[job.device]]

    async def _look_up(self, jobs: list[VariantJob]) -> list[Outcome | None]:
        """Return what is in the store, off the event loop: in a bucket each look is several requests."""
        return await asyncio.gather(*(asyncio.to_thread(recall, job, self._store) for job in jobs))

    async def _make(self, job: VariantJob) -> Outcome:
        error, message, tried = await (self._on_a_pool(job) if self._pools else self._here(job))
        if made := (await self._look_up([job]))[0]:
            return made.model_copy(update={"cached": False, "tried": tried})
        return Outcome(
            name=job.name,
            artifact=await asyncio.to_thread(find_artifact, job, self._store),
            error=error or "EngineError",
            message=message or "the variant's run ended without a result",
            tried=tried,
        )

    async def _here(self, job: VariantJob) -> tuple[str, str, tuple[str, ...]]:
        async with self._limit:
            with tags("quantmill", job.spec.method, job.spec.format):
                state = await asyncio.to_thread(variant, job, return_state=True)
        return ("", "", ()) if state.is_completed() else (state.name or "", state.message or "", ())

    async def _on_a_pool(self, job: VariantJob) -> tuple[str, str, tuple[str, ...]]:
        async def is_done() -> bool:
            return (await self._look_up([job]))[0] is not None

        fitting = places(job.spec, job.snapshot, self._device, self._pools, job.evaluation.request.sequence_length)
        run, tried = await self._runs.run(job, fitting, is_done)
        state = run.state
        if state is None or state.is_completed():
            return "", "", tuple(tried)
        return state.name or "", state.message or "", tuple(tried)
