"""Watches the runs that a line waits for, with one request a second for all of them together.

With a request for each run, a thousand waiting runs would cost a thousand requests a second.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError

from quantmill.errors import ServerError

_POLL_S = 1.0
_COUNT_EVERY = 10  # questions
_SERVER_AWAY_S = 900.0
_ENDED = frozenset(TERMINAL_STATES)
_BEGUN = frozenset(StateType) - {StateType.SCHEDULED, StateType.PENDING}
_T = TypeVar("_T")


class RunWatch:
    """Tells when runs begin and end; asks the server only while somebody waits for a run."""

    def __init__(self) -> None:
        self._awaited: dict[tuple[UUID, frozenset[StateType]], tuple[FlowRun, asyncio.Future[FlowRun]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def begun(self, run: FlowRun) -> FlowRun:
        """Return the run once it has begun, or has ended without beginning."""
        return await self._until(run, _BEGUN)

    async def ended(self, run: FlowRun) -> FlowRun:
        """Return the run once it has ended; a run that was deleted meanwhile has no state.

        Raises:
            ServerError: the server gave no answer for too long.
        """
        return await self._until(run, _ENDED)

    async def _until(self, run: FlowRun, states: frozenset[StateType]) -> FlowRun:
        if run.state is None or run.state.type in states:
            return run
        _, told = self._awaited.setdefault((run.id, states), (run, asyncio.get_running_loop().create_future()))
        if self._asking is None:
            self._start()
        return await told

    def _start(self) -> None:
        self._asking = asyncio.create_task(self._ask())
        self._asking.add_done_callback(self._finished)

    async def _ask(self) -> None:
        async with get_client() as client:
            for turn in itertools.count(1):
                await asyncio.sleep(_POLL_S)
                for states in (_BEGUN, _ENDED):
                    for run in await self._those_in(states, client):
                        self._tell(run, states)
                if turn % _COUNT_EVERY == 0:
                    await self._miss_the_deleted(client)
                if not self._awaited:
                    return

    async def _those_in(self, states: frozenset[StateType], client: PrefectClient) -> list[FlowRun]:
        """Return awaited runs that have reached one of the states.

        The server's answer may not hold all of them; the next turn returns the rest.
        """
        awaited = [run for run, wanted in self._awaited if wanted is states]
        if not awaited:
            return []
        there = FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(states)))
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=awaited), state=there)
        return await patiently(partial(client.read_flow_runs, flow_run_filter=wanted))

    async def _miss_the_deleted(self, client: PrefectClient) -> None:
        awaited = {run.id: run for run, _ in self._awaited.values()}
        if await self._count(list(awaited), client) == len(awaited):
            return
        # Rare, so ask for each run alone: a page of the list holds only 200.
        for run in awaited.values():
            if not await self._count([run.id], client):
                for states in (_BEGUN, _ENDED):
                    self._tell(run.model_copy(update={"state": None}), states)

    async def _count(self, runs: list[UUID], client: PrefectClient) -> int:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=runs))
        return await patiently(partial(client.count_flow_runs, flow_run_filter=wanted))

    def _tell(self, run: FlowRun, states: frozenset[StateType]) -> None:
        _, told = self._awaited.pop((run.id, states), (run, None))
        if told is not None and not told.done():  # cancelled: the line that waits is ending
            told.set_result(run)

    def _finished(self, asking: "asyncio.Task[None]") -> None:
        """Pass an error of the polling task to all waiters; poll again for waiters that came at its end."""
        self._asking = None
        if asking.cancelled():
            return
        if error := asking.exception():
            for _, told in self._awaited.values():
                if not told.done():
                    told.set_exception(error)
            self._awaited.clear()
        elif self._awaited:
            self._start()


async def patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Return the server's answer; ask again while the server is away, as running variants do not need it.

    Raises:
        ServerError: the server did not come back in time.
    """
    deadline = time.monotonic() + _SERVER_AWAY_S
    while True:
        try:
            return await ask()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                raise
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Prefect: no answer for {_SERVER_AWAY_S:.0f} s: {type(error).__name__}; start the line again,"
                    " it finds the variants that were made"
                ) from error
            await asyncio.sleep(_POLL_S)
