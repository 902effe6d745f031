"""Creates all Prefect artifacts: the results of a compress run, and the progress of its jobs."""

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

# A progress artifact takes about 23 ms in the job's thread, so each is updated once a second at most.
_PERIOD_S = 1.0
# After an error no request is sent for a while: each request to a dead server can take its whole time limit.
_PAUSE_S = 30.0


def leave_report(summary: RunSummary, settings: Settings) -> list[UUID]:
    """Create the flow run's artifacts (table, Pareto plot, report, link to the store); return their ids.

    Plot and report are the files that the run wrote under the home.
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
    # The page loads an image from a URL: with a data URI Prefect's database holds the plot, and no other host does.
    # The page also prints the URL: spaces, which base64 allows, let the URL break into lines.
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
    """Create a link to the MLflow run in the current flow run, if a server keeps MLflow's runs."""
    from prefect.artifacts import create_link_artifact

    uri = urlsplit(settings.tracking_uri)
    if uri.scheme.startswith("http") and summary.mlflow_run:
        server = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path.rstrip('/')}"
        link, words = f"{server}/#/runs/{summary.mlflow_run}", f"{summary.model} in MLflow"
        create_link_artifact(link=link, link_text=words, key=_key("mlflow", summary.model), description=words)


def _key(kind: str, model: str) -> str:
    """Return an artifact key, which has only lower-case letters, digits and dashes."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', model.lower()).strip('-')}"


def _id(made: object) -> UUID:
    """Return the artifact's id; raise TypeError for the coroutine that async callers get from Prefect."""
    if not isinstance(made, UUID):
        raise TypeError(f"leave_report runs in a sync flow or a thread, got {type(made).__name__}")
    return made


@contextmanager
def progress_shown(logger: logging.Logger) -> Iterator[None]:
    """Show the records of a progress logger on the page of the current flow run."""
    relay, level = ProgressRelay(), logger.level
    logger.addHandler(relay)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(relay)
        logger.setLevel(level)


class ProgressRelay(logging.Handler):
    """Turns records of `quantmill.progress` into progress artifacts of the current flow run.

    A record has `variant`, `step`, `done` and `total`; other records are ignored. Records from a thread without a flow run
    go to the run that created the relay, if any. Never raises: no job fails because its progress could not be shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._home = contextvars.copy_context()
        self._shown: dict[tuple[str, str], UUID] = {}
        self._next: dict[tuple[str, str], float] = {}
        self._paused_until = 0.0
        # Not the handler's own lock: logging holds that lock around emit, and nothing here needs to be re-entrant.
        self._requests = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, at most once a second for each variant and step; show the end of a step at once."""
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
        """Return the caller's context if it has a flow run, else the context that created the relay."""
        from prefect.context import FlowRunContext

        # A copy: a context cannot be entered twice, and two threads may log at once.
        return contextvars.copy_context() if FlowRunContext.get() else self._home.copy()

    def _show(self, variant: str, step: str, done: int, total: int) -> None:
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

        progress = min(100.0, 100.0 * done / total) if total > 0 else 0.0
        description = f"{variant}: {step} {done}/{total}"
        # The async functions, on a loop of their own: the sync functions return a coroutine if the run's flow is async.
        if shown := self._shown.get((variant, step)):
            asyncio.run(aupdate_progress_artifact(shown, progress, description))
        else:
            # Without a key the artifact shows on the run's page only: the Artifacts page is for lasting results.
            self._shown[variant, step] = asyncio.run(acreate_progress_artifact(progress, description=description))
