"""MLflow's client, and its exceptions as one-line errors: for reading sources and for recording runs."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.errors import DownloadError, QuantmillError, RegistrationError, SourceError
from quantmill.machine import disk, locks
from quantmill.settings import load_settings
from tasks.tracking import database

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCKED_S = 5.0  # how long one writer of MLflow may hold the lock


def connect(uri: str) -> "MlflowClient":
    """Return a client for the MLflow at an address."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def one_line(source: str) -> Iterator[None]:
    """Translate exceptions of MLflow's client into Quantmill errors, without their text, which holds URLs.

    Raises:
        SourceError: MLflow has no such model or artifact, or refuses access.
        DownloadError: MLflow does not answer, or the connection broke.
        DiskFull: the home's disk is full.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        code: Any = error.error_code
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise SourceError(f"{source}: MLflow has no such model, version, alias or artifact") from error
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise SourceError(
                f"{source}: MLflow refuses ({code}); its credentials come from MLFLOW_TRACKING_*"
            ) from error
        raise DownloadError(
            f"{source}: MLflow does not answer, or broke off ({code}); the same command goes on"
        ) from error
    except OSError as error:
        if disk.is_full(error):
            raise disk.told(error, load_settings().home.absolute()) from error
        raise DownloadError(f"{source}: broke off ({type(error).__name__}); the same command goes on") from error


@contextmanager
def failing_in_a_line(uri: str, outcome: str) -> Iterator["MlflowClient"]:
    """Yield a client of MLflow; turn any exception into one line that ends with `outcome`.

    With SQLite and other databases, the client opens the database itself and passes on the exceptions of sqlalchemy, alembic
    and the drivers.

    Raises:
        RegistrationError: MLflow cannot be reached, refuses, or its database is locked, damaged or of another release.
    """
    try:
        with _alone(uri):
            from mlflow import MlflowClient

            if (file := database.database(uri)) and file.exists():
                _require_usable(file)
                database.follow(file)
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except QuantmillError:
        raise  # an error of the store
    except Exception as error:
        secret, at, place = uri.rpartition("@")
        words = " ".join(str(error).replace(secret + at, "").split())[
            :300
        ]  # the client's text contains the password too
        raise RegistrationError(f"MLflow at {place}: {words or type(error).__name__}; {outcome}") from error


def _require_usable(database: Path) -> None:
    """Raise `sqlite3.Error` if a file is locked or is no database; MLflow would retry for minutes."""
    with closing(sqlite3.connect(database, timeout=_LOCKED_S, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
        opened.execute("ROLLBACK")


def _alone(uri: str) -> AbstractContextManager[None]:
    """Lock the folder of MLflow's SQLite file against other processes; do nothing for other addresses.

    The first process to open a new file migrates it, and two migrations at once would break the file.
    """
    file = database.database(uri)
    return locks.folder_held(file.parent) if file else nullcontext()


def require_answer(uri: str, outcome: str) -> None:
    """Raise RegistrationError if MLflow does not answer."""
    with failing_in_a_line(uri, outcome) as client:
        client.search_experiments(max_results=1)


def is_empty(uri: str) -> bool:
    """Return whether MLflow's SQLite file does not exist yet; False for other addresses.

    Asking MLflow itself would create an empty database.
    """
    file = database.database(uri)
    return file is not None and not file.exists()
