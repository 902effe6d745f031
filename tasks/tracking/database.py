"""MLflow's database where it is an SQLite file: which file an address means, and where its artifacts are.

MLflow keeps absolute addresses of artifacts. Ours are beside the database, in `artifacts/<experiment>/<run>`, so in a home that
was copied or moved they are made to say so again; else new artifacts would go to the old place, and old ones be looked for there.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

_LOCKED_S = 30.0
# Tables whose rows belong to a run: the column of the address, and that of the run's id.
_OF_RUNS = (("runs", "artifact_uri", "run_uuid"), ("model_versions", "storage_location", "run_id"))


def database(uri: str) -> Path | None:
    """Return the SQLite file of a tracking address; None where the address is a server's, or another database's."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    name = url.database or ""
    if url.query.get("uri") == "true":
        name = unquote(name.removeprefix("file:").removeprefix("//"))
    return Path(name).absolute() if name and name != ":memory:" else None


def artifacts_of(file: Path, experiment: str) -> str:
    """Return the address of an experiment's artifacts."""
    return (file.parent / "artifacts" / experiment).as_uri()


def follow(file: Path) -> int:
    """Have the artifacts' addresses beside the database again; return how many experiments had others.

    Experiments whose artifacts somebody keeps elsewhere, in a folder of another name, stay as they are, and so do runs whose
    artifacts were not copied along.

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
    """Return the experiments whose artifacts were beside another database: id, the address, and what it should be."""
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
