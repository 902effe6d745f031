"""Prefect artifacts, made nowhere else: what a compress run leaves on its page, and the progress of its jobs."""

import asyncio
import base64
import contextvars
import logging
import re
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import UUID

from quantmill.records.report import RunSummary
from quantmill.settings import Settings
from tasks import report

# A progress artifact costs about 23 ms of the job's thread; a page that moves once a second is lively enough.
_PERIOD_S = 1.0
# A server that does not answer is left alone for a while: each attempt can take as long as its time limit.
_PAUSE_S = 30.0


def leave_report(summary: RunSummary, settings: Settings) -> list[UUID]:
    """Leave the table, the Pareto plot, the report and where the store is in the current flow run; return their ids.

    Plot and report are those that the run wrote under the home.
    """
    from prefect.artifacts import (
        create_image_artifact,
        create_link_artifact,
        create_markdown_artifact,
        create_table_artifact,
    )

    folder = settings.home / "reports" / summary.model
    outcome = f"{len(summary.accepted)} of {len(summary.variants)} variants of {summary.model} accepted"
    table = create_table_artifact(table=report.table(summary), key=_key("variants", summary.model), description=outcome)
    # The page shows an image by its address; as a data URI the plot lies in Prefect's database, on no other host.
    # It prints the address too: blanks, which base64 allows, let that break into lines.
    encoded = base64.b64encode((folder / "pareto.png").read_bytes()).decode()
    address = " ".join(["data:image/png;base64,", *textwrap.wrap(encoded, 48)])
    plot = create_image_artifact(
        image_url=address, key=_key("pareto", summary.model), description=f"{summary.model}: size against KL divergence"
    )
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    text = create_markdown_artifact(markdown=markdown, key=_key("report", summary.model), description=outcome)
    made = [table, plot, text]
    store = settings.store_uri
    words = f"{summary.model} in {store}"
    made.append(create_link_artifact(link=store, link_text=words, key=_key("store", summary.model), description=words))
    return [_id(each) for each in made]


def leave_mlflow_link(summary: RunSummary, settings: Settings) -> None:
    """Leave a link to the run at MLflow's server in the current flow run; a database has no address to open."""
    from prefect.artifacts import create_link_artifact

    uri = urlsplit(settings.tracking_uri)
    if uri.scheme.startswith("http") and summary.mlflow_run:
        server = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path.rstrip('/')}"
        link, words = f"{server}/#/runs/{summary.mlflow_run}", f"{summary.model} in MLflow"
        create_link_artifact(link=link, link_text=words, key=_key("mlflow", summary.model), description=words)


def _key(kind: str, model: str) -> str:
    """Return an artifact key, which takes lower case letters, digits and dashes only."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', model.lower()).strip('-')}"


def _id(made: object) -> UUID:
    """Return the id that was made; by their types Prefect's functions may return a coroutine, to async callers."""
    if not isinstance(made, UUID):
        raise TypeError(f"leave_report runs in a sync flow or a thread, got {type(made).__name__}")
    return made


@contextmanager
def progress_shown(logger: logging.Logger) -> Iterator[None]:
    """Show what a logger of progress says on the page of the current flow run."""
    relay, level = ProgressRelay(), logger.level
    logger.addHandler(relay)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(relay)
        logger.setLevel(level)


class ProgressRelay(logging.Handler):
    """Turns records of `quantmill.progress` into progress artifacts of the flow run that they are logged in.

    A record carries `variant`, `step`, `done` and `total`; others are ignored. Records from a thread without a flow run
    go to the run in which the relay was made, if any. Never raises: no job fails because progress could not be shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._home = contextvars.copy_context()
        self._shown: dict[tuple[str, str], UUID] = {}
        self._next: dict[tuple[str, str], float] = {}
        self._paused_until = 0.0
        # Not the handler's own lock: that one is taken around emit, and nothing here needs to be re-entrant.
        self._requests = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, unless one of the same variant and step was shown within the last second."""
        from httpx import HTTPError
        from prefect.context import FlowRunContext
        from prefect.exceptions import PrefectException

        variant, step = getattr(record, "variant", None), getattr(record, "step", None)
        done, total = getattr(record, "done", None), getattr(record, "total", None)
        if not (
            isinstance(variant, str) and isinstance(step, str) and isinstance(done, int) and isinstance(total, int)
        ):
            return
        now = time.monotonic()
        with self._requests:
            due = now >= self._next.get((variant, step), 0.0) or done >= total
            if not due or now < self._paused_until:
                return
            self._next[variant, step] = now + _PERIOD_S
            context = self._context()
            if context.run(FlowRunContext.get) is None:
                return
            try:
                context.run(self._show, variant, step, done, total)
            except (HTTPError, PrefectException, OSError, ValueError, RuntimeError):
                self._paused_until = time.monotonic() + _PAUSE_S
                self.handleError(record)

    def _context(self) -> contextvars.Context:
        """Return the caller's context where it is inside a run, else the one that the relay was made in."""
        from prefect.context import FlowRunContext

        # A copy: a context cannot be entered twice, and two threads may log at once.
        return contextvars.copy_context() if FlowRunContext.get() else self._home.copy()

    def _show(self, variant: str, step: str, done: int, total: int) -> None:
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

        progress = min(100.0, 100.0 * done / total) if total > 0 else 0.0
        description = f"{variant}: {step} {done}/{total}"
        # The asynchronous functions, on a loop of their own: the others return a coroutine where the run's flow is async.
        if shown := self._shown.get((variant, step)):
            asyncio.run(aupdate_progress_artifact(shown, progress, description))
        else:
            # Without a key it stands on the run's page only: the Artifacts page is for what lasts.
            self._shown[variant, step] = asyncio.run(acreate_progress_artifact(progress, description=description))
