"""Makes the plan of a run from its recipe, also to look up a finished run. Imports no Prefect."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

from flows import jobs
from flows.pools import Pool
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import Recipe
from quantmill.settings import Settings
from quantmill.store.store import Store
from tasks import environments, quantize, text
from tasks.model import architecture
from tasks.sandbox import Sandbox
from tasks.source import download, snapshots

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Runs(Protocol):
    """How a stage function runs: as a Prefect task, or as a plain call."""

    def __call__(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_T]:
        """Run `work` and return its result."""
        ...


async def prepare(
    recipe: Recipe,
    settings: Settings,
    store: Store,
    sandbox: Sandbox,
    pools: tuple[Pool, ...],
    run: Runs,
    fetch: bool = True,
) -> jobs.Plan:
    """Return the plan of a run; inspect its source, and make a missing snapshot or token set.

    Args:
        recipe: the model, texts and variants.
        settings: the settings of the installation.
        store: the store that holds results.
        sandbox: runs the jobs for missing results; a closed sandbox raises `NotCached`.
        pools: the pools that variants run on; without pools they run on this machine.
        run: runs each stage function.
        fetch: whether weights may be fetched and the fetched model is checked against the recipe.

    Raises:
        RequestError: the model or a text cannot be used.
        EnvironmentNotReady: a method's environment is not made on this machine.
        NotCached: a result is missing and may not be made.
    """
    if fetch and not pools:
        require_environments(recipe, settings)
    origin = await run(download.inspect_source, recipe.model, sandbox.home, fetch)
    checkpoints = await run(download.inspect_checkpoints, recipe, origin, sandbox.home, fetch)
    snapshot = await run(download.fetch_snapshot, origin, store, sandbox)
    if fetch:
        folder = snapshots.local_folder(snapshot, sandbox)
        text.require_context(recipe, architecture.of_config(folder))
        quantize.require(recipe.expand(), folder)
    calibrated = jobs.uses_calibration(recipe)
    tokens = await run(text.build_token_sets, recipe, snapshot, store, sandbox, calibrated)
    return jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, checkpoints, pools)


def require_environments(recipe: Recipe, settings: Settings) -> None:
    """Raise EnvironmentNotReady if a method's environment is not made on this machine."""
    for request in recipe.variants:
        if name := METHODS[request.method].environment:
            environments.interpreter(name, settings.environments_folder)


async def _call(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    return work(*args, **kwargs)


def look_up(recipe: Recipe, settings: Settings, store: Store, closed: Sandbox, pools: tuple[Pool, ...]) -> jobs.Plan:
    """Return the plan of a run from stored results alone.

    Raises:
        NotCached: a result is missing.
    """
    return asyncio.run(prepare(recipe, settings, store, closed, pools, _call, fetch=False))
