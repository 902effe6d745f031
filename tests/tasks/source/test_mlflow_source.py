"""`mlflow://` against a real MLflow in a file of SQLite."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantmill.errors import DownloadError, NotCached, SourceError
from quantmill.recipe.recipe import ModelRequest, default_model_name
from quantmill.records.manifest import Manifest, ManifestEvaluation, ManifestModel, Provenance, Safety, Version
from quantmill.settings import Settings, load_settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download, snapshots
from tasks.source import places as sources
from tests.model_folders import CONFIG, sharded_folder
from tests.samples import report


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow that holds nothing; to migrate an empty database takes seconds."""
    from mlflow import MlflowClient

    place = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{place}", registry_uri=f"sqlite:///{place}").search_registered_models()
    return place


@pytest.fixture
def registry(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client of the settings' MLflow, which holds one version of the model `base`: a plain folder."""
    from mlflow import MlflowClient

    monkeypatch.setenv("QUANTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    uri = load_settings().tracking_uri
    shutil.copyfile(database, tmp_path / "home" / "mlflow" / "mlflow.db")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("base")
    folder = sharded_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    client.create_model_version("base", source=str(folder), await_creation_for=0)
    yield SimpleNamespace(client=client, folder=folder, home=tmp_path / "home", uri=uri)


def request(name: str = "base/1") -> ModelRequest:
    return ModelRequest(source=f"mlflow://models/{name}")


def test_a_folder_becomes_a_snapshot_that_can_be_made_again(registry: Any) -> None:
    home, client = registry.home, registry.client
    client.set_registered_model_alias("base", "best", "1")
    seen = download.preview_source(request(), home)
    assert seen.architecture.hidden_size == CONFIG["hidden_size"]
    assert not (home / "fetched").exists()
    with pytest.raises(NotCached):
        download.inspect_source(request(), home, fetch=False)
    origin = download.inspect_source(request("base@best"), home)
    assert (origin.resolved, origin.size_bytes) == ("base/1", seen.size_bytes)
    assert "pytorch_model.bin" not in [file.path for file in origin.files]
    sandbox = Sandbox(Settings(home=home))
    snapshot = download.fetch_snapshot(origin, open_store(home / "store"), sandbox)
    assert snapshot.parameters == 12
    other = shutil.copytree(registry.folder, registry.folder.with_name("other"))
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    client.create_model_version("base", source=str(other), await_creation_for=0)
    client.set_registered_model_alias("base", "best", "2")
    for gone in ("snapshots", "fetched"):
        shutil.rmtree(home / gone)
    assert snapshots.local_folder(snapshot, sandbox).is_dir(), "the origin keeps the version that the alias was at"
    assert download.inspect_source(request("base/@best"), home).resolved == "base/2"


def test_what_the_transformers_flavour_writes(registry: Any) -> None:
    """Weights and config in one folder of the artifacts, the tokenizer in another; a run holds them."""
    laid = registry.folder.with_name("laid")
    for name in ("model", "components/tokenizer"):
        (laid / name).mkdir(parents=True)
    for path in registry.folder.iterdir():
        shutil.copyfile(path, laid / ("components/tokenizer" if "token" in path.name else "model") / path.name)
    (laid / "MLmodel").write_text("flavors: {transformers: {}}")
    client = registry.client
    experiment = client.create_experiment("e", artifact_location=registry.folder.with_name("artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(laid), "model")
    client.create_model_version("base", source=f"runs:/{run}/model", run_id=run, await_creation_for=0)
    origin = download.inspect_source(request("base/2"), registry.home)
    assert "tokenizer.json" in [file.path for file in origin.files]
    folder = sources.open_source(request("base/2"), registry.home).fetch(origin)
    for file in origin.files:
        assert (folder / file.path).read_bytes() == (registry.folder / file.path).read_bytes()


def publish(registry: Any, method: str) -> None:
    """Put the folder into the store as a published variant, and register it as `register` does."""
    store, measured = open_store(load_settings().store_uri), report(method)
    (registry.folder / "pytorch_model.bin").unlink(missing_ok=True)
    made = Manifest(
        name=f"base/{method}",
        key="0" * 64,
        model=ManifestModel(uri="hf://org/base", revision="0" * 64, files=()),
        variant={"method": method},
        recipe_sha256="0" * 64,
        toolchain={},
        hardware="",
        evaluation=ManifestEvaluation(
            suite="",
            metrics=measured.quality,
            speed=measured.speed,
            bits_per_weight=16,
            gate={},
            report_sha256="0" * 64,
        ),
        files=store.add_folder(registry.folder),
        safety=Safety(formats=("safetensors",)),
        license="apache-2.0",
    )
    provenance = Provenance(manifest=made.digest, recipe={}, made_at=1.0)
    store.commit(made, Version(model="base", variant=method, manifest=made.digest, provenance=provenance))
    registry.client.create_model_version(
        "base", source=f"quantmill://base/{method}@{made.digest}", await_creation_for=0
    )


def test_a_published_baseline_is_taken_up_again_and_a_quantized_variant_is_not(registry: Any) -> None:
    publish(registry, "baseline")
    publish(registry, "gptq")
    origin = download.inspect_source(request("base/2"), registry.home, fetch=False)
    assert (origin.resolved, origin.license) == ("base/2", "apache-2.0")
    folder = sources.open_source(request("base/2"), registry.home).fetch(origin)
    assert (folder / "config.json").read_bytes() == (registry.folder / "config.json").read_bytes()
    with pytest.raises(
        SourceError, match=r"version 3 is variant gptq, which is compressed already; .* from hf://org/base"
    ):
        download.preview_source(request("base/3"), registry.home)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base/9", "MLflow has no such model"),
        ("nothing/1", "MLflow has no such model"),
        ("base@nobody", "MLflow has no such model"),
        ("base/one", "write it as mlflow://models/name/version or"),
        ("base", "write it as mlflow://models/name/version or"),
        ("../base/1", "write it as mlflow://models/name/version or"),
    ],
)
def test_names_that_are_wrong(registry: Any, name: str, words: str) -> None:
    with pytest.raises(SourceError, match=r"^model\.source: mlflow://") as raised:
        download.preview_source(request(name), registry.home)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_places_that_hold_no_model(registry: Any) -> None:
    client = registry.client
    client.create_model_version("base", source="quantmill://base/nothing", await_creation_for=0)
    with pytest.raises(SourceError, match="points to quantmill://base/nothing, which names no published variant"):
        download.preview_source(request("base/2"), registry.home)
    shutil.rmtree(registry.folder)
    with pytest.raises(SourceError, match="found no weights"):
        download.preview_source(request("base/1"), registry.home)


def test_nobody_answers(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMILL_MLFLOW_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DownloadError, match="MLflow does not answer") as raised:
        download.preview_source(request(), registry.home)
    assert "secret" not in str(raised.value)


def test_the_model_is_called_as_it_is_registered() -> None:
    for source in ("mlflow://models/My-Base/3", "mlflow://models/My-Base@best", "mlflow://models/My-Base/@best"):
        assert default_model_name(source) == "my-base"
