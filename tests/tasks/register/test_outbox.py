"""Fault 10: MLflow is down for a while; published versions stay, and MLflow gets each run once."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner

from flows import publish_commands
from quantmill.records.manifest import Revocation
from quantmill.settings import Settings
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks.register import models as registry
from tasks.register import outbox
from tasks.register import runs as register
from tasks.tracking import database as tracking_file
from tasks.tracking.client import failing_in_a_line
from tests import samples
from tests.finished_run import GOOD, MANIFEST, OUTCOMES, RECIPE, SUMMARY, keep
from tests.mlflow_server import MlflowServer


@pytest.fixture
def server(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    served = MlflowServer(tmp_path, empty_mlflow)
    yield served
    served.stop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def parents(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("tiny")
    return list(client.search_runs([experiment.experiment_id], "tags.`quantmill.model` = 'tiny'")) if experiment else []


@pytest.mark.slow
def test_fault_10_mlflow_is_down_and_comes_back(server: MlflowServer, store: Store) -> None:
    first, second = keep(store), keep(store)
    down = outbox.deliver(store, server.url)
    assert (down.runs, down.waiting) == ({}, 2)
    assert len(down.problems) == 1
    assert "\n" not in down.problems[0]
    assert "`quantmill register` delivers them" in down.problems[0]
    server.start()
    up = outbox.deliver(store, server.url)
    assert (list(up.runs), up.waiting, up.problems) == ([first, second], 0, ())
    client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags["quantmill.manifest"] == MANIFEST
    assert {run.info.run_id for run in parents(client)} == set(up.runs.values())
    assert outbox.deliver(store, server.url) == ({}, 0, ())
    revoked_is_shown(client, server.url, store)


def revoked_is_shown(client: MlflowClient, uri: str, store: Store) -> None:
    """Check that MLflow shows a version that was withdrawn, and that nothing puts its aliases back."""
    assert registry.show_revocations(store, "tiny", uri) == 0
    assert set(client.get_registered_model("tiny").aliases) == {"gguf-q8_0", "best-quality", "best-size", "best-speed"}
    store.revoke("tiny", GOOD.name, Revocation(manifest=MANIFEST, reason="wrong tokenizer", made_at=1.0))
    assert registry.show_revocations(store, "tiny", uri) == 1
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags["quantmill.revoked"] == "wrong tokenizer"
    assert version.description == "REVOKED: wrong tokenizer"
    assert client.get_registered_model("tiny").aliases == {}
    assert registry.show_revocations(store, "tiny", uri) == 0
    keep(store)
    assert outbox.deliver(store, uri).problems == ()
    assert client.get_registered_model("tiny").aliases == {}, "a run of before the revocation that was delivered late"


@pytest.fixture
def database(tmp_path: Path, empty_mlflow: Path) -> str:
    return f"sqlite:///{shutil.copyfile(empty_mlflow, tmp_path / 'mlflow.db')}"


def test_a_delivery_that_broke_off_is_made_whole_once(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed half-way, and killed after the last word to MLflow: one run and one version either way."""
    name = keep(store)
    held = store.objects.read(f"outbox/{name}.json")
    assert held

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "move_aliases", killed)
        outbox.deliver(store, database)
    again = outbox.deliver(store, database)
    assert again.runs == {}, "whoever has it may still be at work"
    (said,) = again.problems
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert re.fullmatch(
        rf"outbox: {name}: {holder} delivers it; from 2\S+ \S+ UTC on `quantmill register` takes it", said
    )
    store.objects.replace(f"outbox/{name}.json", held.data)  # ten minutes later
    delivered = outbox.deliver(store, database).runs[name]
    store.objects.create(f"outbox/{name}.json", held.data)  # killed before it was dropped
    assert outbox.deliver(store, database).runs == {name: delivered}
    client = MlflowClient(tracking_uri=database, registry_uri=database)
    assert [run.info.run_id for run in parents(client)] == [delivered]
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_an_entry_that_cannot_be_read_stops_no_other(store: Store, database: str) -> None:
    store.objects.create("outbox/00000000000001-damaged.json", b"{}")
    name = keep(store)
    delivery = outbox.deliver(store, database)
    assert list(delivery.runs) == [name]
    assert delivery.waiting == 1
    assert "00000000000001-damaged.json" in delivery.problems[0]


def test_one_at_a_time_opens_a_database(tmp_path: Path) -> None:
    """The first to open a new database migrates it, and two at once would break it.

    So `compress`, `register` and `revoke` open it one at a time.
    """
    uri, entered = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}", threading.Event()

    def other() -> None:
        with failing_in_a_line(uri, "never seen"):
            entered.set()

    with failing_in_a_line(uri, "never seen"):
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(30)
    thread.join()


def test_two_that_register_one_manifest_leave_one_version(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's version appears between our look and our own: ours goes."""
    register.register_run(RECIPE, SUMMARY, OUTCOMES, {GOOD.name: MANIFEST}, database, {}, {})
    client = MlflowClient(tracking_uri=database, registry_uri=database)
    (first,) = client.search_model_versions("name = 'tiny'")
    looks = iter([[]])
    real = registry._versions
    monkeypatch.setattr(registry, "_versions", lambda *asked: next(looks, None) or real(*asked))
    run = first.run_id
    assert registry.register_version(client, "tiny", GOOD, MANIFEST, run) == str(first.version)
    assert len(client.search_model_versions("name = 'tiny'")) == 1


@pytest.mark.slow
def test_the_commands_tell_mlflow(store: Store, database: str, tmp_path: Path) -> None:
    """`revoke` in a checkout tells MLflow; `register` has nothing left to tell, and delivers waiting runs."""
    made = samples.manifest((), name=f"tiny/{GOOD.name}")
    store.commit(made, samples.version(made, model="tiny", variant=GOOD.name))
    register.register_run(RECIPE, SUMMARY, OUTCOMES, {GOOD.name: made.digest}, database, {}, {})

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        settings = {"QUANTMILL_STORE": store.uri, "QUANTMILL_HOME": str(tmp_path), "QUANTMILL_MLFLOW_URI": database}
        command = [sys.executable, "-m", "quantmill.cli", *arguments]
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)

    keep(store)
    withdrawn = run("revoke", "tiny", GOOD.name, "--reason", "wrong tokenizer")
    assert withdrawn.returncode == 0, withdrawn.stderr
    assert "MLflow shows it (1 versions there)" in withdrawn.stderr
    assert "quantmill register" not in withdrawn.stderr, "that is for those who have the wheel alone"
    client = MlflowClient(tracking_uri=database, registry_uri=database)
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags["quantmill.revoked"] == "wrong tokenizer"
    told = run("register")
    assert told.returncode == 0, told.stderr
    assert "0 runs wait for MLflow; 0 revoked versions are newly shown there" in told.stdout
    assert len(parents(client)) == 2

    name = keep(store)
    entry = store.objects.read(f"outbox/{name}.json")
    assert entry
    held = outbox.PendingRun.model_validate_json(entry.data).model_copy(
        update={"taken_until": time.time() + 500, "taken_by": "process 7 on a-worker"}
    )
    store.objects.replace(f"outbox/{name}.json", held.model_dump_json().encode())
    told = run("register")
    assert told.returncode == 1
    assert f"outbox: {name}: process 7 on a-worker delivers it; from " in told.stderr


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], None]:
    """Has a run registered by the command `register` with a home, from a folder where nothing may be left."""
    app = typer.Typer()
    publish_commands.add_to(app)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def register_at(home: Path) -> None:
        monkeypatch.setenv("QUANTMILL_HOME", str(home))
        keep(open_store(home / "store"))
        done = CliRunner().invoke(app, ["register"])
        assert done.stdout.startswith("0 runs wait"), done.output
        assert not list((tmp_path / "cwd").iterdir())

    return register_at


def artifacts_in(home: Path) -> list[Path]:
    """Return the folders of the runs' artifacts in a home, as its MLflow names them; none is empty."""
    client = MlflowClient(tracking_uri=(uri := Settings(home=home).tracking_uri), registry_uri=uri)
    runs = parents(client)
    assert all(client.list_artifacts(run.info.run_id) for run in runs)
    found = [Path(unquote(urlsplit(run.info.artifact_uri).path)) for run in runs]
    assert all(place.is_dir() for place in found)
    return found


def test_a_home_of_any_name_that_is_copied_or_moved_keeps_its_artifacts_to_itself(
    tmp_path: Path, empty_mlflow: Path, command: Callable[[Path], None]
) -> None:
    """A `?` in the path cut the database's URL short; MLflow keeps absolute paths of artifacts."""
    old, copied, moved = (tmp_path / name for name in ("what? why#1 100%41", "copied", "moved"))
    (old / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_mlflow, old / "mlflow" / "mlflow.db")
    beside = {path.name for path in tmp_path.iterdir()}
    command(old)
    assert {path.name for path in tmp_path.iterdir()} == beside
    shutil.copytree(old, copied)
    before = sorted(old.rglob("*"))
    command(copied)
    assert sorted(old.rglob("*")) == before, "nothing was written into the old home"
    copied.rename(moved)
    command(moved)
    for home, runs in ((old, 1), (moved, 3)):
        places = artifacts_in(home)
        assert len(places) == runs
        assert all(place.is_relative_to(home / "mlflow" / "artifacts" / "tiny") for place in places), places
    assert tracking_file.follow(moved / "mlflow" / "mlflow.db") == 0, "it is done once"


def test_artifacts_that_somebody_keeps_elsewhere_stay_there(tmp_path: Path, database: str) -> None:
    client = MlflowClient(tracking_uri=database, registry_uri=database)
    for name, place in (
        ("a", f"{tmp_path}/big/disk"),
        ("b", "s3://bucket/artifacts/b"),
        ("c", f"file://{tmp_path}/artifacts/c"),
    ):
        client.create_experiment(name, artifact_location=place)
    before = {experiment.name: experiment.artifact_location for experiment in client.search_experiments()}
    with failing_in_a_line(database, "never seen") as client:
        assert {held.name: held.artifact_location for held in client.search_experiments()} == before
