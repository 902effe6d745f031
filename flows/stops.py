"""Ends a command that runs the line on SIGTERM or Ctrl-C: stops the run and prints one line."""

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
    """End the command on SIGTERM or Ctrl-C with status 130, after a line that says how to go on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(stopping.WORDS, err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`, a run of a flow; SIGTERM or Ctrl-C sets the stop latch and cancels it.

    Raises:
        KeyboardInterrupt: the run was stopped.
    """
    from prefect.exceptions import TerminationSignal

    try:
        return asyncio.run(_heard(work))
    except (TerminationSignal, asyncio.CancelledError) as ended:
        raise KeyboardInterrupt from ended


async def _heard(work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work` with a SIGTERM handler in the event loop.

    While a flow runs, Prefect's own handler raises `TerminationSignal` in whatever code the loop runs at that moment, and a
    callback of the loop may swallow the exception. The loop's handler is called in any case, through the wake-up pipe.
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
