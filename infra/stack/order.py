"""Starts the parts of a stack in order: the database, the servers, the bootstrap, the workers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from infra.stack import logins, parts, postgres
from infra.stack.processes import Part, Processes
from infra.stack.site import Site
from quantmill.errors import ServerError

_SQLITE = "prefect/prefect.db"


def start(
    place: Site, workers: list[Part], processes: Processes, warn: Callable[[str], None]
) -> list[tuple[str, str, str]]:
    """Start the parts; return the name, state and address of each.

    Raises:
        ServerError: a part did not become healthy, or the bootstrap failed.
    """
    cluster = _cluster(place.folder, warn)
    database = f"sqlite+aiosqlite:///{place.folder / _SQLITE}"
    first, servers = list[Part](), list[Part]()
    if cluster:
        cluster.create()
        database, first = cluster.url, [cluster.part()]
    servers.append(parts.prefect_server(place, database))
    if not place.settings.mlflow_uri:
        servers.append(parts.mlflow_server(place))
    if place.has_weed:
        servers.append(parts.object_store(place))
    logins.write_shell_file(place.folder / "client.sh", place.client_environment)
    for stage in (first, servers):
        processes.start(*stage)
    made = _bootstrap(place)
    processes.start(*workers)
    started = [(part.name, "healthy", part.address) for part in (*first, *servers, *workers)]
    return [*started, ("bootstrap", "done", made)]


def _cluster(folder: Path, warn: Callable[[str], None]) -> postgres.Cluster | None:
    """Return the Postgres cluster for Prefect's server, or None for SQLite.

    A home that began with SQLite keeps SQLite.
    """
    found = postgres.find(folder / "postgres")
    if (folder / _SQLITE).exists():
        why = "this home began with SQLite"
    elif found is None:
        why = "Postgres is not installed (apt-get install postgresql)"
    else:
        why = postgres.obstacle(folder / "postgres")
    if why:
        warn(f"WARNING: Prefect's database is SQLite, which many runs at once lock for a minute at times: {why}")
    return None if why else found


def _bootstrap(place: Site) -> str:
    """Run the bootstrap; return how many parts of the server were created, updated and unchanged."""
    command = [sys.executable, "-m", "quantmill.cli", "bootstrap"]
    done = subprocess.run(command, env=place.environment, cwd=place.folder, capture_output=True, text=True)
    (place.folder / "logs" / "bootstrap.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise ServerError(f"bootstrap: {done.stderr.strip()[-1000:]}")
    ends = [line.rpartition(" ")[2] for line in done.stdout.splitlines()]
    return ", ".join(f"{ends.count(end)} {end}" for end in ("created", "updated", "unchanged") if end in ends)
