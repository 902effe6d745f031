"""MLflow's SQLite database: the file of an address, and the addresses of the artifacts.

MLflow stores absolute addresses of artifacts. Quantmill keeps the artifacts beside the database, in
`artifacts/<experiment>/<run>`. In a home that was copied or moved, this module updates the addresses; else MLflow would
write and read artifacts in the old home.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

_LOCKED_S = 30.0
# Tables whose rows belong to a run: (table, column of the address, column of the run's id).
_OF_RUNS = (("runs", "artifact_uri", "run_uuid"), ("model_versions", "storage_location", "run_id"))


def database(uri: str) -> Path | None:
    """Return the SQLite file of a tracking address; None for a server or another database."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    name = url.database or ""
    if url.query.get("uri") == "true":
        name = unquote(name.removeprefix("file:").removeprefix("//"))
    return Path(name).absolute() if name and name != ":memory:" else None


def artifacts_of(file: Path, experiment: str) -> str:
    """Return the address of an experiment's artifacts, beside the database."""
    return (file.parent / "artifacts" / experiment).as_uri()


def follow(file: Path) -> int:
    """Update the artifact addresses after the home was moved; return the number of updated experiments.

    Experiments with artifacts in a folder of another name stay unchanged, and so do runs whose artifacts were not copied.

    Raises:
        sqlite3.Error: the file is locked, or no database.
    """
    with closing(sqlite3.connect(file, timeout=_LOCKED_S, isolation_level=None)) as base:
        if not _experiments(base, file):
            return 0
        base.execute("BEGIN IMMEDIATE")
        moved = _experiments(base, file)
        for number, before, now in moved:
            base.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (now, number))
            copied = file.parent / "artifacts" / unquote(now.rpartition("/")[2])
            for run in copied.iterdir() if copied.is_dir() else ():
                for table, column, of_run in _OF_RUNS:
                    if _has(base, table, column):
                        base.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                            f" WHERE {of_run} = ? AND substr({column}, 1, ?) = ?",
                            (now, len(before) + 1, run.name, len(before) + 1, f"{before}/"),
                        )
        base.execute("COMMIT")
        return len(moved)


def _experiments(base: sqlite3.Connection, file: Path) -> list[tuple[int, str, str]]:
    """Return (id, old address, new address) of experiments whose artifacts were beside another database."""
    if not _has(base, "experiments", "artifact_location"):
        return []
    rows = base.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
    found = []
    for number, name, before in rows:
        now = artifacts_of(file, name)
        tail = now.removeprefix(file.parent.as_uri())
        if before and before != now and before.startswith("file:") and before.endswith(tail):
            found.append((number, before, now))
    return found


def _has(base: sqlite3.Connection, table: str, column: str) -> bool:
    return column in {row[1] for row in base.execute(f"PRAGMA table_info({table})")}
