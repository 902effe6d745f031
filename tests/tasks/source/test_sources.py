"""A recipe's source is found from the command's working folder, whatever folder a job works in."""

from pathlib import Path

import pytest

from quantmill.errors import RequestError
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download, snapshots
from tasks.source import places as sources
from tests.model_folders import model_folder


@pytest.mark.slow
def test_a_relative_folder_is_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(Settings(home=Path("home")))
    origin = download.inspect_source(ModelRequest(source="./model"), sandbox.home)
    snapshot = download.fetch_snapshot(origin, open_store(Path("home/store")), sandbox)
    assert (snapshots.local_folder(snapshot, sandbox) / "model.safetensors").is_file()


def test_a_relative_name_stands_for_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert sources.locate("./m.gguf") == sources.locate("m.gguf") == tmp_path / "m.gguf"


def test_a_preview_counts_the_bytes_and_holds_the_revision(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    origin = sources.open_source(ModelRequest(source=str(folder)), tmp_path).inspect()
    named = ModelRequest(source=str(folder), revision=origin.digest[:12])
    assert sources.open_source(named, tmp_path).preview().size_bytes == origin.size_bytes
    with pytest.raises(RequestError, match=f"^0000: the source's digest is {origin.digest}"):
        sources.open_source(ModelRequest(source=str(folder), revision="0000"), tmp_path).preview()
