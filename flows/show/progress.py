"""Progress on the screen: bars on a terminal, a line now and then elsewhere (a log, a pipe)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_LOUDER_S = 5.0


def say(words: str) -> None:
    """Log a progress message without a count."""
    logging.getLogger("quantmill.progress").info(words)


def announce(names: list[str]) -> None:
    """Log the names of a run's variants, so that each progress line can number its variant."""
    words = f"{len(names)} to make or to find: {', '.join(names)}"
    logging.getLogger("quantmill.progress").info(words, extra={"plan": names})


@contextmanager
def show_progress() -> Iterator[None]:
    """Show the jobs' progress: bars on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    logger = logging.getLogger("quantmill.progress")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    bars = Progress(
        TextColumn("{task.fields[variant]:>22}"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    handler: logging.Handler = _Bars(bars) if console.is_terminal else _Lines(console)
    logger.addHandler(handler)
    try:
        with bars:
            yield
    finally:
        logger.removeHandler(handler)


class _Bars(logging.Handler):
    """Draws one bar for each variant, with the variant's current step."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars, self._tasks = bars, dict[str, TaskID]()

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "variant"):
            self._bars.console.print(record.getMessage(), highlight=False, markup=False)
            return
        variant, step, done, total = (getattr(record, name) for name in ("variant", "step", "done", "total"))
        if variant not in self._tasks:
            self._tasks[variant] = self._bars.add_task(step, total=total, variant=variant)
        self._bars.update(self._tasks[variant], description=step, completed=done, total=total)


class _Lines(logging.Handler):
    """Prints a line at the start and the end of each step, and every few seconds in between."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console, self._last, self._plan = console, (("", ""), 0.0), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self._plan = getattr(record, "plan", self._plan)
        step, shown = (getattr(record, "variant", ""), getattr(record, "step", "")), self._last
        finished = getattr(record, "done", 0) >= getattr(record, "total", 1)
        if step != shown[0] or finished or not hasattr(record, "variant") or record.created - shown[1] > _LOUDER_S:
            self._last = (step, record.created)
            known = getattr(record, "variant", "") in self._plan
            place = f"[{self._plan.index(record.variant) + 1}/{len(self._plan)}] " if known else ""  # type: ignore[attr-defined]
            self._console.print(place + record.getMessage(), highlight=False, markup=False, soft_wrap=True)
