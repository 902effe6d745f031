"""With MLflow's database locked, damaged or unreadable a run ends well, and MLflow gets the run later."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantmill.store.channels import read_channel
from quantmill.store.places import open_store
from tasks.register import outbox
from tests import small_line
from tests.finished_run import keep

ROOT = Path(__file__).resolve().parents[3]
MEASURES = small_line.COPIES.replace("    time.sleep(120)\n", "    measure()\n")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold a database as a program does that writes and hangs."""
    with closing(sqlite3.connect(database, isolation_level=None)) as held:
        held.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def damaged(database: Path) -> Iterator[None]:
    """Have bytes in its place that are no database."""
    whole = database.read_bytes()
    database.write_bytes(b"no database at all" * 500)
    yield
    database.write_bytes(whole)


@contextmanager
def of_a_newer_mlflow(database: Path) -> Iterator[None]:
    """Have a database whose schema alembic does not know."""
    whole = database.read_bytes()
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    yield
    database.write_bytes(whole)


@pytest.mark.parametrize("trouble", [locked, damaged, of_a_newer_mlflow])
def test_every_error_of_the_tracker_is_the_outbox_s(tmp_path: Path, empty_mlflow: Path, trouble: Any) -> None:
    database = Path(shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db"))
    store = open_store(tmp_path / "store")
    name = keep(store)
    with trouble(database):
        delivery = outbox.deliver(store, f"sqlite:///{database}")
    assert (delivery.runs, delivery.waiting, len(delivery.problems)) == ({}, 1, 1)
    assert "1 runs wait for it: `quantmill register` delivers them" in delivery.problems[0]
    assert "\n" not in delivery.problems[0]
    assert list(outbox.deliver(store, f"sqlite:///{database}").runs) == [name], "once it can be read again"


def test_a_driver_that_is_not_installed_is_one_too(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    keep(store)
    (problem,) = outbox.deliver(store, "mssql+nodriver://me:canary@127.0.0.1/db").problems
    assert "MLflow at 127.0.0.1/db: " in problem
    assert "canary" not in problem


def test_a_locked_database_keeps_nothing_back(tmp_path: Path, empty_mlflow: Path, prefect_url: str) -> None:
    """A run and a rerun give channel, report, table and `--json`; MLflow's run is filled in later."""
    database = Path(shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db"))
    recipe = small_line.recipe(tmp_path / "source")
    recipe |= {
        "gates": {"max_perplexity_ratio": 9, "max_mean_kl": 9},
        "publish": {"model": "small", "channel": "stable"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "starts").mkdir()
    settings = {
        "QUANTMILL_HOME": str(tmp_path / "home"),
        "QUANTMILL_PYTHON": str(small_line.interpreter(tmp_path, tmp_path / "starts", MEASURES)),
        "QUANTMILL_MLFLOW_URI": f"sqlite:///{database}",
        "PREFECT_API_URL": prefect_url,
        "TMPDIR": str(tmp_path),  # its lock is of no other run: nothing is measured here
    }

    def compress() -> tuple[dict[str, Any], str]:
        written = tmp_path / "run.json"
        written.unlink(missing_ok=True)
        command = [sys.executable, "-m", "quantmill.cli", "compress", "recipe.yaml", "--json", str(written)]
        done = subprocess.run(
            command,
            env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(written.read_text()), done.stdout + done.stderr

    with locked(database):
        for cached in (False, True):
            summary, said = compress()
            assert (summary["channel_seq"], summary["mlflow_run"]) == (1, "")
            assert [(row["status"], row["cached"]) for row in summary["variants"]] == [("accepted", cached)]
            assert "1 of 1 variants accepted" in said
            assert "database is locked; 1 runs wait for it" in said
            assert "Traceback" not in said
    store = open_store(tmp_path / "home" / "store")
    assert read_channel(store, "small", "stable")
    report = tmp_path / "home" / "reports" / "small"
    assert (report / "report.html").exists()
    summary, said = compress()
    assert "1 waiting runs registered in MLflow" in said
    assert summary["mlflow_run"], "filled in, whoever delivered it"
    assert json.loads((report / "summary.json").read_text())["mlflow_run"] == summary["mlflow_run"]
