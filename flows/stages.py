"""Runs stage functions, which are plain functions of `tasks/`, as Prefect tasks.

Prefect caches and persists no results: the store holds them.
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
"""Name of a stage function and its Prefect task -> the stage in a run's `timings` and in the names of task runs.

Dashboards, alerts and metrics depend on these names: keep them when a function moves to another module.
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_deployed() -> bool:
    """Return whether a Prefect server started this run from a deployment.

    The command line's runs, and runs inside another run, have no deployment.
    """
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def as_task(work: Callable[_P, _T], run_name: str | None = None) -> Task[_P, _T]:
    """Return a stage function as a Prefect task, which raises `Stopped` if it would start after a stop.

    `run_name` may hold parameters in braces; the default is `in_words(work)`.
    """
    name = run_name or in_words(work)
    return task(name=work.__name__, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(_guarded(work))


def _guarded(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function with two guards: no start after a stop, and DiskFull for a full disk."""

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
    """Return the name of a stage's task runs, such as `download: fetch snapshot`."""
    return f"{STAGES[work.__name__]}: {work.__name__.replace('_', ' ')}"


class Stages:
    """Runs stage functions as tasks in threads, and adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self.began_at = time.time()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `work` as a task in a thread and return its result."""
        return await self.watch(STAGES[work.__name__], asyncio.to_thread(as_task(work), *args, **kwargs))

    async def watch(self, stage: str, work: Awaitable[_T]) -> _T:
        """Await `work`, add its seconds to those of `stage`, and return its result."""
        started = time.monotonic()
        try:
            return await work
        except asyncio.CancelledError:
            stopping.stop_all()  # the thread goes on: kill its job, and let it start no other job
            raise
        finally:
            self.timings[stage] = round(self.timings.get(stage, 0.0) + time.monotonic() - started, 3)
