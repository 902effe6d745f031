"""Builds variants on this machine, in threads of this process, or on the pools that fit their needs."""

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
    """Builds variants, and looks up finished ones; a failure is an outcome and stops no other job."""

    def __init__(
        self,
        store: Store,
        pools: tuple[Pool, ...] = (),
        device: str = "auto",
        run: str = "",
        measure_again: bool = False,
    ) -> None:
        """Build on `pools`; without pools build on this machine, at most `local_jobs` variants at once.

        With `measure_again` every stored speed is measured again, for the run with the id `run`. Without it only speeds
        from a busy machine are measured again: on pools always, on this machine if it is quiet now.
        """
        self._run, self._measure_again = run, measure_again
        self._store, self._pools, self._device = store, pools, device
        self._limit = asyncio.Semaphore(load_settings().local_jobs)
        self._runs = PoolRuns()

    async def build(self, job: VariantJob) -> Outcome:
        """Return the outcome of one job."""
        return (await self.build_all([job]))[job.name]

    async def build_all(self, jobs: list[VariantJob]) -> dict[str, Outcome]:
        """Return the outcome of each job by its name.

        On pools the longest jobs start first, so that shorter jobs fill the gaps.
        """
        ordered = sorted(jobs, key=lambda job: -planning.cost(job.spec)) if self._pools else jobs
        # All look-ups end before the first start: their threads end in any order, but jobs start in this one.
        found = {job.name: made for job, made in zip(ordered, await self._look_up(ordered), strict=True) if made}
        again = {name: {"measure_again": self._run or "again"} for name in await self._to_measure_again(ordered, found)}
        wanted = [job.model_copy(update=again.get(job.name, {})) for job in ordered]
        made = await asyncio.gather(*(self._make(job) for job in wanted if job.measure_again or job.name not in found))
        found |= {outcome.name: outcome for outcome in made}
        return {job.name: found[job.name] for job in jobs}

    async def _to_measure_again(self, jobs: list[VariantJob], found: dict[str, Outcome]) -> list[str]:
        """Return the names of the found variants whose speed is measured again."""
        if self._measure_again:
            return list(found)
        busy = [job for job in jobs if job.name in found and (report := found[job.name].report) and report.busy]
        if not busy or self._pools:  # this process cannot tell whether a worker's machine is quiet
            return [job.name for job in busy]
        limit = load_settings().busy_share
        quiet = {
            device: await asyncio.to_thread(is_quiet_now, device, limit) for device in {job.device for job in busy}
        }
        return [job.name for job in busy if quiet[job.device]]

    async def _look_up(self, jobs: list[VariantJob]) -> list[Outcome | None]:
        """Return the stored outcome of each job, or None.

        Threads keep the event loop free: in a bucket each look-up takes several requests.
        """
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
