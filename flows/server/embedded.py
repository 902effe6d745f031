"""Prefect on this machine with nothing to start: an API server of our own that lives exactly as long as its parent.

Prefect's own ephemeral mode leaves its server behind when the parent is killed. Here the server holds the read end of
a pipe whose write end only the parent has: when the parent is gone, however it went, the pipe ends, and the server too.

    with prefect_api(home) as url:      # flows that run inside are recorded at `url`
        compress(recipe)

Afterwards `PREFECT_HOME=<home>/prefect prefect server start` opens the same database in Prefect's own pages.
"""

import logging
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flows.server.embedded_server import READY
from quantmill.errors import DiskFull, ServerError, SettingsError
from quantmill.files.paths import sqlite_uri
from quantmill.machine import disk

# The first start migrates an empty database: 15 s on two busy cores; it waits while another process migrates it.
_START_S = 180.0
_STOP_S = 10.0
# What serves schedules, workers and automations has nothing to do here. The recorder of task runs and the writer of
# events stay on: without them the pages show no tasks.
_IDLE = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "REPOSSESSOR", "TRIGGERS")
_LAST_LINES = 15


@contextmanager
def prefect_api(home: Path) -> Iterator[str]:
    """Give the URL of a Prefect API that flows started inside are recorded at.

    Where PREFECT_API_URL is set, in the environment or in Prefect's profile, that server is used and nothing starts.

    Raises:
        ServerError: the server died before it was ready, or was not ready in time.
        DiskFull: the home's disk is full; then this is also what errors of the block are told as.
    """
    from prefect.settings import PREFECT_API_URL

    if configured := PREFECT_API_URL.value():
        _require_answer(configured)
        yield configured
        return
    home = home.absolute()
    log = home / "logs" / "prefect-server.log"
    if disk.has_no_room(home):
        raise disk.disk_full(home, "Prefect's database needs room")
    with disk.blamed(home):
        for folder in (log.parent, home / "prefect"):
            folder.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            server = _start(home, output)
        try:
            url = _wait_until_ready(server, log)
            with _client_settings(home, url), _quiet_console():
                yield url
        finally:
            _stop(server)


def require_server() -> None:
    """Raise where no server is named, or nobody answers there."""
    _require_answer(require_server_named())


def require_server_named() -> str:
    """Return the API's URL; raise where none is set."""
    from prefect.settings import PREFECT_API_URL

    if not (url := PREFECT_API_URL.value()):
        raise SettingsError("PREFECT_API_URL: not set; name the server's API, for example http://127.0.0.1:4200/api")
    return str(url)


def _require_answer(url: str) -> None:
    """Raise ServerError where nobody answers at the API's URL."""
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=20).raise_for_status()
    except httpx.HTTPError as error:
        # The words about a status hold the whole URL, and a URL may hold a login; so may the traceback of what is chained.
        words = f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        raise ServerError(f"PREFECT_API_URL: no Prefect server answers at {url.rpartition('@')[2]}: {words}") from None


def _server_environment(home: Path) -> dict[str, str]:
    """Return the server's environment: ours without Prefect's variables, which are meant for other servers."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    checkout = str(Path(__file__).resolve().parents[2])
    return {
        **plain,
        "PYTHONPATH": os.pathsep.join(filter(None, [checkout, plain.get("PYTHONPATH", "")])),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": sqlite_uri(home / "prefect" / "prefect.db", "aiosqlite"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_MAX_PARAMETER_SIZE": "0",  # a job that names all tensors of a model can be long
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_COLORS": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _IDLE},
    }


def _start(home: Path, output: IO[bytes]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows.server.embedded_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        text=True,
        env=_server_environment(home),
        # A group of its own: Ctrl-C in the terminal reaches the flow first, which still has to report to the server.
        start_new_session=True,
    )


def _wait_until_ready(server: "subprocess.Popen[str]", log: Path) -> str:
    """Return the API's URL once the server says that it answers."""
    if server.stdout is None:
        raise ServerError("the embedded Prefect server has no output to report on")
    deadline = time.monotonic() + _START_S
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([server.stdout], [], [], left)
        line = server.stdout.readline() if readable else ""
        if line.startswith(READY):
            return f"http://127.0.0.1:{int(line.removeprefix(READY))}/api"
        if readable and not line:
            server.wait(_STOP_S)
            raise _died(f"died with status {server.returncode}", log)
    raise _died(f"was not ready after {_START_S:.0f} s", log)


def _died(how: str, log: Path) -> ServerError | DiskFull:
    what, last = f"the embedded Prefect server {how}", _tail(log)
    if disk.has_no_room(log.parent) or disk.is_full(OSError(last)):  # a log on a full disk may lack its last lines
        return disk.disk_full(log.parent.parent, what)
    return ServerError(f"{what}; {last}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return f"last lines of {log}: " + " | ".join(line.strip() for line in lines if line.strip())


def _stop(server: "subprocess.Popen[str]") -> None:
    """End the server in bounded time: politely, so that what flows reported last is written, then by force."""
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for stream in (server.stdin, server.stdout):
        if stream is not None:
            stream.close()


@contextmanager
def _client_settings(home: Path, url: str) -> Iterator[None]:
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_KEY,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    updates: dict[Any, Any] = {
        PREFECT_API_URL: url,
        # A key or password meant for another server would be refused by this one.
        PREFECT_API_KEY: None,
        PREFECT_API_AUTH_STRING: None,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        PREFECT_HOME: home / "prefect",
        PREFECT_LOCAL_STORAGE_PATH: home / "prefect" / "storage",
        # Nobody watches for missing heartbeats here, and joining their thread costs each flow a second.
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 1.0,
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
    }
    with temporary_settings(updates=updates):
        try:
            yield
        finally:
            _drain()


def _drain() -> None:
    """Send the log lines and events that wait for their batch while the server is still there to take them.

    States of task runs travel as events. What is left over would be sent at exit, to nobody, for a minute.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=_STOP_S)


def _is_ours(record: logging.LogRecord) -> bool:
    """Say whether a record belongs on the console: Prefect's lie in its database, progress has its own handlers."""
    return record.levelno >= logging.CRITICAL or not re.match(r"prefect\b|quantmill\.progress\b", record.name)


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Keep Prefect's lines off the console, where the command line draws its progress."""
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import PrefectConsoleHandler

    setup_logging()  # Prefect would do it at its first run, after we looked for its handlers
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    for handler in handlers:
        handler.addFilter(_is_ours)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_ours)
