"""Looks at the sources of a watch list and announces new base models, which start `compress`.

An announcement is the event `quantmill.base-model.landed`; the trigger of the deployment `compress/compress` starts a run with
the event's recipe. An event can get lost, so each look announces landings without a run again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import Event, Resource
from prefect.events.clients import get_events_client
from prefect.logging import get_run_logger

from flows.pools import patiently
from quantmill.errors import QuantmillError, RequestError
from quantmill.settings import Settings, load_settings
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks.landing import landings
from tasks.landing.landings import Landing
from tasks.landing.places import look
from tasks.landing.watchlist import WatchEntry, read_watchlist
from tasks.source.sights import NotYet

LIST = Path(__file__).resolve().parent.parent / "deployments" / "watchlist.yaml"
EVENT = "quantmill.base-model.landed"
AGAIN_AFTER_S = 60.0
"""An announcement starts a run within seconds; without a run after this time the announcement counts as lost."""
_ON_THE_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


@flow(name="watch", persist_result=False)
async def watch(source: str = "") -> int:
    """Announce every model that landed since the last look; return how many.

    Args:
        source: look only for this model, such as `hf://org/name`. Empty: look at the whole watch list.

    Raises:
        RequestError: the watch list cannot be used, or has no entry for the source.
        QuantmillError: a source cannot be read; the others were looked at.
    """
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)  # the look records facts about sources there
    store, troubles = configured_store(settings), list[str]()
    log, announced = get_run_logger(), 0
    entries = entries_for(source, settings.watchlist or LIST)
    for number, entry in enumerate(entries):
        earlier = entries[:number]
        found = await asyncio.to_thread(what_landed, entry, earlier, store, settings.home, log.info, troubles)
        for landing in found:
            if landings.claim(store, landing):  # else another watcher claimed and announces it
                log.info("%s %s: landed (%s)", landing.model, landing.revision[:12], landing.changed)
                await announce(landing)
                announced += 1
    for landing in await lost(store):
        log.info("%s %s: landed and no run took it; announced again", landing.model, landing.revision[:12])
        await announce(landing)
        announced += 1
    if troubles:
        raise QuantmillError("; ".join(troubles))
    return announced


def preview(settings: Settings, tell: Callable[[str], None]) -> None:
    """Tell what `watch` would announce; record nothing.

    Raises:
        QuantmillError: the watch list or a source cannot be read.
    """
    store, troubles, told = configured_store(settings), list[str](), False
    entries = read_watchlist(settings.watchlist or LIST)
    for number, entry in enumerate(entries):
        for landing in what_landed(entry, entries[:number], store, settings.home, tell, troubles):
            told = True
            tell(f"{landing.model} {landing.revision[:12]}: {landing.changed}, by {entry.recipe}")
    if troubles:
        raise QuantmillError("; ".join(troubles))
    if not told:
        tell("nothing landed")


def entries_for(source: str, watchlist: Path) -> list[WatchEntry]:
    """Return all entries of the watch list in order, or only the first entry that matches `source`."""
    entries = read_watchlist(watchlist)
    if not source:
        return list(entries)
    for entry in entries:
        if entry.matches(source):
            return [entry.model_copy(update={"source": source})]
    raise RequestError(f"source: {source}: no entry of {watchlist} matches it")


def what_landed(
    entry: WatchEntry,
    earlier: Sequence[WatchEntry],
    store: Store,
    home: Path,
    tell: Callable[[str], None],
    troubles: list[str],
) -> list[Landing]:
    """Return the new models of one entry that no `earlier` entry covers.

    `tell` gets each model that is not taken, with the reason. An unreadable source is added to `troubles`.
    """
    found = []
    try:
        for sight in look(entry, home, partial(landings.is_known, store), earlier):
            if isinstance(sight, NotYet):
                tell(f"{sight.model}: not taken: {sight.why}")
            elif landing := landings.describe(sight, entry, store):
                found.append(landing)
    except QuantmillError as error:
        troubles.append(f"{entry.source}: {error}")
    except OSError as error:
        troubles.append(f"{entry.source}: cannot be read ({error.strerror or error})")
    return found


async def announce(landing: Landing) -> None:
    """Emit the event and wait until the server has it."""
    event = Event(
        event=EVENT,
        resource=Resource({"prefect.resource.id": f"quantmill.base-model.{landing.key}", "model": landing.model}),
        payload={**landing.model_dump(mode="json", exclude={"files", "seen_at"}), "landing": landing.key},
    )
    async with get_events_client(checkpoint_every=1) as events:
        await events.emit(event)


async def lost(store: Store) -> list[Landing]:
    """Return claimed landings without a run: the watcher died, or the event got lost."""
    old = [landing for landing in landings.unbegun(store) if time.time() - landing.seen_at > AGAIN_AFTER_S]
    if not old:
        return []
    async with get_client() as client:
        waiting = await on_the_way(client)
    return [landing for landing in old if landing.key not in waiting]


async def on_the_way(client: PrefectClient) -> set[str]:
    """Return the keys of the landings whose run is scheduled, pending or running.

    A run that ends between two pages may hide another run. The landing of the hidden run is announced again, and its
    second run ends as `Duplicate`.
    """
    ask = partial(
        client.read_flow_runs,
        flow_filter=FlowFilter(name=FlowFilterName(any_=["compress"])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ON_THE_WAY))),
        sort=FlowRunSort.ID_DESC,
    )
    found, seen = set[str](), 0
    while runs := await patiently(partial(ask, offset=seen)):  # the server limits the length of a page
        found |= {run.parameters.get("landing", "") for run in runs}
        seen += len(runs)
    return found
