"""Postgres from Debian's package, with its data and its socket in one folder, and no port.

Whoever may enter the folder (mode 700) may do everything, so Postgres has no password.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.stack.processes import Part
from quantmill.errors import ServerError

ROOT = Path("/usr/lib/postgresql")
SOCKET = ".s.PGSQL.5432"
OWNER = "postgres" if os.getuid() == 0 else None
"""The user that runs Postgres, which refuses root; None: the current user."""


@dataclass(frozen=True)
class Cluster:
    """One folder of data, and the programs that serve it."""

    folder: Path
    binaries: Path

    @property
    def url(self) -> str:
        """The database's URL for Prefect's server."""
        return f"postgresql+asyncpg://quantmill@/postgres?host={self.folder}"

    def create(self, *options: str) -> None:
        """Make the folder's database if there is none yet."""
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted start left
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if OWNER:
            shutil.chown(self.folder, OWNER)
        command = [self._program("initdb"), "-D", str(self._data), "-U", "quantmill", "-A", "trust", "-E", "UTF8"]
        made = subprocess.run([*command, *options], user=OWNER, cwd="/", capture_output=True, text=True)
        if made.returncode:
            shutil.rmtree(self._data, ignore_errors=True)
            raise ServerError(f"postgres: {self.folder}: {' '.join(made.stderr.split())[-300:]}")

    def part(self, *settings: str) -> Part:
        """Return the server as a part of a service; `settings` are like `fsync=off`."""
        given = ("listen_addresses=", "max_connections=200", *settings)
        options = [word for setting in given for word in ("-c", setting)]
        return Part(
            name="postgres",
            command=(self._program("postgres"), "-D", str(self._data), "-k", str(self.folder), *options),
            is_healthy=self._answers,
            address=f"the socket in {self.folder}",
            stop_signal=signal.SIGINT,  # a fast shutdown: it ends connections and writes everything down
            stop_s=60.0,
            user=OWNER,
        )

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _program(self, name: str) -> str:
        return str(self.binaries / name)

    def _answers(self) -> bool:
        command = [self._program("pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run(command, cwd="/").returncode == 0


def find(folder: Path) -> Cluster | None:
    """Return the cluster of `folder`, which may still be empty, or None if Postgres is not installed.

    Raises:
        ServerError: the folder has data of a Postgres version that is not installed.
    """
    made = folder / "data" / "PG_VERSION"
    wanted = made.read_text().strip() if made.exists() else "*"
    found = sorted(ROOT.glob(f"{wanted}/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if not found and wanted != "*":
        raise ServerError(f"{folder}: these are data of Postgres {wanted}, which is not in {ROOT}")
    return Cluster(folder, found[0]) if found else None


def obstacle(folder: Path) -> str:
    """Return why Postgres cannot work in a folder that is not made yet, or an empty string."""
    if OWNER and subprocess.run(["test", "-x", str(folder.parent)], user=OWNER, cwd="/").returncode:
        return f"Postgres runs as the user {OWNER}, who may not enter {folder.parent}"
    return ""
