"""Runs a Prefect API server on this machine that lives exactly as long as its parent process.

Prefect's own ephemeral mode leaves its server behind when the parent is killed. Here the server holds the read end of
a pipe, and only the parent holds the write end: when the parent dies in any way, the pipe closes and the server exits.

    with prefect_api(home) as url:      # flows that run inside are recorded at `url`
        compress(recipe)

Afterwards `PREFECT_HOME=<home>/prefect prefect server start` shows the same database in Prefect's dashboard.
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

# The first start migrates an empty database (15 s on two busy cores), or waits while another process migrates it.
_START_S = 180.0
_STOP_S = 10.0
# Services for schedules, workers and automations have nothing to do here. The recorder of task runs and the writer of
# events stay on: without them the dashboard shows no tasks.
_IDLE = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "REPOSSESSOR", "TRIGGERS")
_LAST_LINES = 15


@contextmanager
def prefect_api(home: Path) -> Iterator[str]:
    """Yield the URL of a Prefect API that records the flows started inside the context.

    If PREFECT_API_URL is set, in the environment or in Prefect's profile, that server is used and none is started.

    Raises:
        ServerError: the server died before it was ready, or was not ready in time.
        DiskFull: the home's disk is full; errors inside the context become DiskFull then, too.
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
    """Raise SettingsError if PREFECT_API_URL is not set, or ServerError if that server does not answer."""
    _require_answer(require_server_named())


def require_server_named() -> str:
    """Return the API's URL; raise SettingsError if PREFECT_API_URL is not set."""
    from prefect.settings import PREFECT_API_URL

    if not (url := PREFECT_API_URL.value()):
        raise SettingsError("PREFECT_API_URL: not set; name the server's API, for example http://127.0.0.1:4200/api")
    return str(url)


def _require_answer(url: str) -> None:
    """Raise ServerError if no server answers at the API's URL."""
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=20).raise_for_status()
    except httpx.HTTPError as error:
        # httpx's message about a status has the whole URL, which may hold a login; so does the traceback of a chained error.
        words = f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        raise ServerError(f"PREFECT_API_URL: no Prefect server answers at {url.rpartition('@')[2]}: {words}") from None


def _server_environment(home: Path) -> dict[str, str]:
    """Return the server's environment: this process's, without Prefect's variables for other servers."""
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
        # A session of its own, so that Ctrl-C in the terminal reaches only the flow, which must still report to the server.
        start_new_session=True,
    )


def _wait_until_ready(server: "subprocess.Popen[str]", log: Path) -> str:
    """Wait until the server is ready, and return the API's URL."""
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
    """End the server in bounded time: by SIGTERM, then by SIGKILL.

    After SIGTERM the server writes what flows reported last.
    """
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
    """Send the log lines and events that wait for their batch, while the server still runs.

    States of task runs travel as events. Without this Prefect would try for a minute at exit to send the rest, in vain.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=_STOP_S)


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether a log record belongs on the console.

    Prefect keeps its records in its database, and progress records have their own handlers.
    """
    return record.levelno >= logging.CRITICAL or not re.match(r"prefect\b|quantmill\.progress\b", record.name)


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Keep Prefect's log lines off the console, where the command line draws its progress."""
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import PrefectConsoleHandler

    setup_logging()  # else Prefect sets its handlers up at the first run, after this search
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    for handler in handlers:
        handler.addFilter(_is_ours)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_ours)
