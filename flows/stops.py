"""How a command that runs the line hears a stop: SIGTERM and Ctrl-C alike set the latch, end the run and say one line."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from tasks.sandbox import stopping

_T = TypeVar("_T")


@contextmanager
def told() -> Iterator[None]:
    """End the command on SIGTERM as on Ctrl-C: with status 130, after a line that says how to go on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(stopping.WORDS, err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Return what `work`, a run of a flow, gives; SIGTERM or Ctrl-C sets the latch and cancels it.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    from prefect.exceptions import TerminationSignal

    try:
        return asyncio.run(_heard(work))
    except (TerminationSignal, asyncio.CancelledError) as ended:
        raise KeyboardInterrupt from ended


async def _heard(work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work` with SIGTERM heard by the event loop.

    While a flow runs, Prefect's handler raises `TerminationSignal` in whatever the loop does at that moment, and a callback of
    the loop swallows it. The loop itself hears the signal all the same, through its wake-up pipe.
    """
    loop, task, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        first = not stopping.is_stopped()
        stopping.stop_all()
        if first and task:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
