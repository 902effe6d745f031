"""Sets the environment variables of Prefect, MLflow and the hub's client during a command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantmill.settings import Settings

HEARTBEAT_S = 30
"""Seconds between the signs of life of a run, on pools and on the command line. Prefect allows no fewer."""


@contextmanager
def home_made(home: Path) -> Iterator[None]:
    """Make the home for a command if it is missing: Prefect makes its folder only in an existing home.

    A home that was made here and is still empty at the end is removed, so that a refused command leaves nothing behind.
    """
    new = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in (home / "prefect", home) if new else ():
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def embedded_environment(settings: Settings) -> Iterator[None]:
    """Switch telemetry off and set MLflow's login during a command.

    Enter this context before Prefect and MLflow are imported.
    """
    wanted = {
        "PREFECT_HOME": str(settings.home.absolute() / "prefect"),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a server that is down costs minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),  # a server's watchdog does not wait Prefect's 180 s
        **settings.tracking_login,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
