"""The artifacts on a run's Prefect page: three that last, and progress while the run works."""

import base64
import contextvars
import logging
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from rich.console import Console

from flows.show import pages as artifacts
from flows.show import screen
from flows.show.pages import ProgressRelay, leave_mlflow_link, leave_report
from quantmill.recipe.recipe import GatePolicy
from quantmill.records.report import RunSummary, VariantSummary
from quantmill.settings import Settings
from tasks.report import report
from tests import samples

pytestmark = pytest.mark.slow

SUMMARY = RunSummary(
    model="tiny_model.q8",
    source="models/tiny",
    source_digest="c" * 64,
    baseline=samples.BASELINE,
    timings={},
    variants=(
        VariantSummary(
            name="gguf-q8_0",
            method="gguf",
            bits=8,
            format="gguf",
            status="accepted",
            cached=False,
            size_bytes=500,
            mean_kl=0.001,
        ),
    ),
    noise_floor={},
    pareto=("gguf-q8_0",),
    picks={},
)


def left_in(run: str) -> list[Artifact]:
    """Return the artifacts of a flow run."""
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
        return client.read_artifacts(artifact_filter=of_run)


@pytest.fixture
def progress() -> Iterator[logging.Logger]:
    """A logger like the sandbox's."""
    logger = logging.getLogger("quantmill.progress")
    level = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(level)


def say(logger: logging.Logger, done: int, total: int = 4, variant: str = "gguf-q8_0") -> None:
    logger.info("", extra={"variant": variant, "step": "evaluate", "done": done, "total": total})


def test_report_leaves_table_plot_text_and_links(prefect_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_uri="https://me:canary-4711@mlflow.example.invalid/tracking/")
    folder = tmp_path / "reports" / SUMMARY.model
    folder.mkdir(parents=True)
    for name, content in report.pages(SUMMARY, GatePolicy()).items():
        (folder / name).write_bytes(content)

    @flow
    def leave() -> str:
        leave_report(SUMMARY, settings)
        leave_mlflow_link(SUMMARY.model_copy(update={"mlflow_run": "0123"}), settings)
        return str(flow_run.id)

    left: dict[str | None, Any] = {artifact.key: artifact for artifact in left_in(leave())}
    assert {key: artifact.type for key, artifact in left.items()} == {
        "variants-tiny-model-q8": "table",
        "pareto-tiny-model-q8": "image",
        "report-tiny-model-q8": "markdown",
        "store-tiny-model-q8": "markdown",
        "mlflow-tiny-model-q8": "markdown",
    }
    assert "https://mlflow.example.invalid/tracking/#/runs/0123" in left["mlflow-tiny-model-q8"].data
    assert "canary" not in str([artifact.data for artifact in left.values()])
    assert '"variant": "gguf-q8_0"' in left["variants-tiny-model-q8"].data
    plot: str = left["pareto-tiny-model-q8"].data.removeprefix("data:image/png;base64, ")
    assert base64.b64decode(plot.replace(" ", ""), validate=True) == (folder / "pareto.png").read_bytes()
    assert max(map(len, plot.split())) <= 48, "the page prints the address, too: in lines"


def test_progress_is_shown_at_most_once_a_second(
    prefect_url: str, progress: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    show = ProgressRelay._show

    def counted(self: ProgressRelay, variant: str, step: str, done: int, total: int) -> None:
        shown.append(done)
        show(self, variant, step, done, total)

    monkeypatch.setattr(ProgressRelay, "_show", counted)
    monkeypatch.setattr(artifacts, "_PERIOD_S", 3600.0)

    @flow
    def work() -> str:
        relay = ProgressRelay()
        progress.addHandler(relay)
        try:
            for done in range(5):
                say(progress, done)
            progress.info("a record without a variant is ignored")
            # A thread that knows nothing of the run, as one that reads a job's pipe.
            stranger = threading.Thread(target=contextvars.Context().run, args=(say, progress, 4, 4, "gguf-q2_k"))
            stranger.start()
            stranger.join()
        finally:
            progress.removeHandler(relay)
        return str(flow_run.id)

    left = left_in(work())
    assert shown == [0, 4, 4], "the first and the last of one, the last of the other"
    assert sorted((artifact.description, artifact.data) for artifact in left) == [
        ("gguf-q2_k: evaluate 4/4", 100.0),
        ("gguf-q8_0: evaluate 4/4", 100.0),
    ]


def test_progress_never_stops_a_job(
    prefect_url: str, progress: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)

    attempts: list[int] = []

    def refused(self: ProgressRelay, variant: str, step: str, done: int, total: int) -> None:
        attempts.append(done)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(ProgressRelay, "_show", refused)

    @flow
    def work() -> None:
        relay = ProgressRelay()
        progress.addHandler(relay)
        try:
            say(progress, 1)
            say(progress, 4)
        finally:
            progress.removeHandler(relay)

    work()
    assert attempts == [1]
    assert capsys.readouterr().err.count("--- Logging error ---") == 1, "said once, then left alone"


def test_progress_outside_a_run_is_ignored(
    progress: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    relay = ProgressRelay()
    progress.addHandler(relay)
    say(progress, 1)
    progress.removeHandler(relay)
    assert capsys.readouterr().err == ""


def test_the_screen_names_a_server_of_mlflow_and_a_command_where_there_is_none(tmp_path: Path) -> None:
    said = {}
    for uri in ("", "http://me:secret@mlflow.example:5000"):
        console = Console(file=StringIO(), width=500)
        settings = Settings(home=tmp_path, mlflow_uri=uri)
        screen._print_places(SUMMARY.model_copy(update={"variants": ()}), settings, console, 0)
        (said[uri],) = [line for line in console.file.getvalue().splitlines() if line.startswith("MLflow")]  # type: ignore[attr-defined]
    own, named = said.values()
    assert "mlflow ui --backend-store-uri sqlite:///" in own
    assert named.split() == ["MLflow", "http://mlflow.example:5000"]
