"""File systems with fewer features: NFS locks, folders without sync, special characters in paths."""

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.server import embedded
from quantmill.cli import app
from quantmill.files.paths import sync
from quantmill.machine import locks
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.surroundings import machine_held, scratch
from tasks.tracking import database as tracking_file
from tests.published import publish
from tests.users import ROOT


def run(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.exception


def publish_and_pull(tmp_path: Path) -> None:
    """Take a store through what changes it: publish, promote twice, pull, collect."""
    store = open_store(tmp_path / "store")
    for seed in (1, 2):
        publish(store, tmp_path / "made", seed=seed)
        run("promote", "m", "gguf-q8_0", "--channel", "stable", "--reason", "r", "--store", store.uri)
    run("pull", "m", "--channel", "stable", "--to", tmp_path / "to", "--store", store.uri)
    run("verify", tmp_path / "to")
    run("gc", "--store", store.uri)


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grant locks as NFS does: exclusive locks on files open for writing, shared for reading (flock(2))."""
    granted = fcntl.flock

    def flock(handle: int, operation: int) -> None:
        opened = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        if opened == (os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        granted(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_locks_are_held_on_nfs(nfs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the machine's own lock may be held by a measurement
    publish_and_pull(tmp_path)
    for alone in (True, False):
        with machine_held(alone):
            pass
    with (
        locks.folder_held(tmp_path / "cache"),
        pytest.raises(BlockingIOError),
        locks.held(tmp_path / "cache" / ".lock", wait=False),
    ):
        pass
    stale = tmp_path / "scratch" / "killed"
    stale.mkdir(parents=True)
    (stale / "lock").touch()
    with scratch(tmp_path / "scratch") as first:
        assert not stale.exists(), "what a killed run left is removed"
        with scratch(tmp_path / "scratch"):
            assert first.exists(), "and what is in use is not"


def test_one_module_takes_locks_between_processes() -> None:
    own = {"locks.py", "s3_download.py"}  # the latter locks a file that it has open for both anyway
    for source in ("quantmill", "tasks", "flows"):
        for path in (ROOT / source).rglob("*.py"):
            assert "flock(" not in path.read_text() or path.name in own, f"{path}: take quantmill.machine.locks"


def test_a_folder_that_cannot_be_synced_is_as_good_as_the_file_system_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FUSE and CIFS answer EINVAL, as /proc does; a file that cannot be synced is an error as before."""
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(os.open("/proc/self", os.O_RDONLY))
    sync(Path("/proc/self"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))
    synced = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synced(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    publish_and_pull(tmp_path)
    run("keys", "create", "--out", tmp_path / "keys")


@pytest.mark.parametrize("name", ["plain", "what? why#1 100%41 caf\u00e9"])
def test_an_address_of_a_database_leads_to_its_file_whatever_its_path(tmp_path: Path, name: str) -> None:
    import asyncio

    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import create_async_engine

    home = tmp_path / name
    mlflow, prefect = home / "mlflow" / "mlflow.db", home / "prefect" / "prefect.db"
    for place in (mlflow, prefect):
        place.parent.mkdir(parents=True)
    uri = Settings(home=home).tracking_uri
    engine = create_engine(uri)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a int)"))
    engine.dispose()

    async def connect() -> None:
        engine = create_async_engine(embedded._server_environment(home)["PREFECT_SERVER_DATABASE_CONNECTION_URL"])
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (a int)"))
        await engine.dispose()

    asyncio.run(connect())
    assert mlflow.stat().st_size > 0
    assert prefect.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name], "and to no other"
    assert tracking_file.database(uri) == mlflow
    assert tracking_file.database("http://host:5000") is None
    assert tracking_file.database("postgresql://host/base") is None
    assert tracking_file.database("sqlite:///:memory:") is None
    assert "?" in uri if "?" in name else uri == f"sqlite:///{mlflow}", "plain addresses stay as they were"
