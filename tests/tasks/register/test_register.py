"""What MLflow holds after a run: on SQLite, and through a real server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quantmill.errors import RegistrationError
from quantmill.records.report import (
    RunSummary,
)
from tasks.register.models import alias
from tasks.register.runs import register_run
from tests.finished_run import BAD, BROKEN, GOOD, MANIFEST, OUTCOMES, RECIPE, SUMMARY
from tests.mlflow_server import MlflowServer

FILES = {"report.md": b"# tiny\n", "pareto.png": b"\x89PNG\r\n\x1a\n", "summary.json": b"{}"}


def register(uri: str, folder: Path, summary: RunSummary = SUMMARY) -> str:
    log = folder / "gguf-q4_k_m.log"
    log.write_text("killed\n")
    logs = {"gguf-q4_k_m": log, "gguf-q8_0": folder / "missing.log"}
    return register_run(RECIPE, summary, OUTCOMES, {"gguf-q8_0": MANIFEST}, uri, FILES, logs)


def check(uri: str, parent: str) -> None:
    """Check everything that one run leaves."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.data.params["gates.max_mean_kl"] == "0.2" and run.data.params["source_digest"] == "c" * 64
    assert run.data.metrics["baseline_perplexity"] == 18.0 and run.data.metrics["noise_floor_llama_cpp"] == 0.0005
    assert {file.path for file in client.list_artifacts(parent)} == set(FILES)
    found = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    children = {child.info.run_name: child for child in found}
    states = {name: (child.info.status, child.data.tags["quantmill.status"]) for name, child in children.items()}
    assert states == {
        "gguf-q8_0": ("FINISHED", "accepted"),
        "gguf-q2_k": ("FINISHED", "rejected"),
        "gguf-q4_k_m": ("FAILED", "failed"),
    }
    good, broken = children["gguf-q8_0"], children["gguf-q4_k_m"]
    assert good.data.params["type"] == "Q8_0" and good.data.params["toolchain.llama-cpp-python"] == "0.3.16"
    assert good.data.metrics["mean_kl"] == 0.001 and "mean_kl" not in broken.data.metrics
    assert "OutOfMemory" in broken.data.tags["quantmill.reasons"]
    assert [file.path for file in client.list_artifacts(good.info.run_id)] == ["evaluation.json"]
    assert [file.path for file in client.list_artifacts(broken.info.run_id, "logs")] == ["logs/gguf-q4_k_m.log"]
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.source == f"quantmill://tiny/gguf-q8_0@{MANIFEST}"
    assert version.tags["variant"] == "gguf-q8_0" and version.tags["mean_kl"] == "0.001"
    for name in ("gguf-q8_0", "best-quality", "best-size", "best-speed"):
        assert client.get_model_version_by_alias("tiny", name).version == version.version


def test_sqlite_holds_the_run_and_each_manifest_once(
    tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    folder = tmp_path / "mlflow"
    folder.mkdir()
    uri = f"sqlite:///{shutil.copyfile(empty_mlflow, folder / 'mlflow.db')}"
    first = register(uri, tmp_path)
    check(uri, first)
    again = register(uri, tmp_path)
    check(uri, again)
    assert first != again, "each run is a run of its own; the version is the same"
    assert list(working.iterdir()) == [], "nothing lands in the working folder"
    assert (folder / "artifacts" / "tiny").is_dir()
    follow_the_picks(uri)


def follow_the_picks(uri: str) -> None:
    """Check that a later run moves the aliases of what it picks and leaves the others."""
    small = BAD.model_copy(update={"status": "accepted", "manifest": "9" * 64})
    summary = SUMMARY.model_copy(update={"variants": (GOOD, small, BROKEN), "picks": {"size": small.name}})
    manifests = {GOOD.name: MANIFEST, small.name: "9" * 64}
    register_run(RECIPE, summary, OUTCOMES, manifests, uri, {}, {})
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert len(client.search_model_versions("name = 'tiny'")) == 2
    assert client.get_model_version_by_alias("tiny", "best-size").tags["variant"] == small.name
    assert client.get_model_version_by_alias("tiny", "best-quality").tags["variant"] == GOOD.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gguf-q4_k_m", "gguf-q4_k_m"), ("gptq-4bit-damp0.05", "gptq-4bit-damp0-05"), ("v4", "variant-v4")],
)
def test_alias_is_valid_for_mlflow(name: str, expected: str) -> None:
    assert alias(name) == expected


@pytest.fixture
def server(tmp_path: Path, empty_mlflow: Path) -> Iterator[str]:
    """A real MLflow server on a free port of the loopback."""
    served = MlflowServer(tmp_path, empty_mlflow)
    served.start()
    yield served.url
    served.stop()


@pytest.mark.slow
def test_a_server_holds_the_same(server: str, tmp_path: Path) -> None:
    check(server, register(server, tmp_path))
    check(server, register(server, tmp_path))


def test_a_server_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        RegistrationError, match=r"^MLflow at 127\.0\.0\.1:9: .*1 accepted variants are published"
    ) as raised:
        register_run(RECIPE, SUMMARY, OUTCOMES, {"gguf-q8_0": MANIFEST}, "http://user:canary-4711@127.0.0.1:9", {}, {})
    assert "\n" not in str(raised.value)
    assert "canary" not in str(raised.value)
