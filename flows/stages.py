"""Stage functions as Prefect tasks. Work stays plain functions in `tasks/`, wiring is here.

Nothing is cached or persisted by Prefect: the store is the memory.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.tasks import Task

from quantmill.machine import disk
from quantmill.settings import load_settings
from tasks.sandbox import stopping

STAGES = {
    "inspect_source": "download",
    "inspect_checkpoints": "download",
    "fetch_snapshot": "download",
    "build_token_sets": "calibrate",
    "convert_snapshot": "convert",
    "score_long_text": "long_text",
    "make_artifact": "quantize",
    "measure_artifact": "evaluate",
    "commit_accepted": "publish",
    "promote": "publish",
    "keep": "outbox",
    "deliver": "outbox",
    "leave_report": "artifacts",
    "leave_mlflow_link": "artifacts",
}
"""Stage function, which names its Prefect task -> the stage in a run's `timings` and in what its task runs are called.

Dashboards, alerts and figures over time are made of these names: they stay when a function's module is moved.
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_deployed() -> bool:
    """Return whether a Prefect server started this run: it is neither the command line's nor a part of another run."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def as_task(work: Callable[_P, _T], run_name: str | None = None) -> Task[_P, _T]:
    """Return a stage function as a task; `run_name` may hold parameters in braces, and is the stage in words by default.

    The task raises `Stopped` in place of work that would begin after a stop.
    """
    name = run_name or in_words(work)
    return task(name=work.__name__, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(_guarded(work))


def _guarded(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function so that nothing begins after a stop, and a full disk is told as such in the state of its run."""

    @wraps(work)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        stopping.require_going(in_words(work))
        try:
            return work(*args, **kwargs)
        except OSError as error:
            if not disk.is_full(error):
                raise
            raise disk.told(error, load_settings().home.absolute()) from error

    return guarded


def in_words(work: Callable[..., object]) -> str:
    """Return what a stage's runs are called: `download: fetch snapshot`."""
    return f"{STAGES[work.__name__]}: {work.__name__.replace('_', ' ')}"


class Stages:
    """Runs stage functions as tasks, off the event loop, and keeps the seconds that each module took."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self.began_at = time.time()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `work` returns."""
        return await self.watch(STAGES[work.__name__], asyncio.to_thread(as_task(work), *args, **kwargs))

    async def watch(self, stage: str, work: Awaitable[_T]) -> _T:
        """Return what `work` gives, its seconds added to those of `stage`."""
        started = time.monotonic()
        try:
            return await work
        except asyncio.CancelledError:
            stopping.stop_all()  # a thread goes on after this: its job is killed, and it starts no other
            raise
        finally:
            self.timings[stage] = round(self.timings.get(stage, 0.0) + time.monotonic() - started, 3)
