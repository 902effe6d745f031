"""`hf://` against a hub on loopback, through the real client in a process of its own, as HF_ENDPOINT is read at its import."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records.artifact import Origin, Snapshot
from tests.hub_server import HubServer
from tests.model_folders import CONFIG, ONE_WEIGHT, model_folder, sharded_folder

ROOT = Path(__file__).resolve().parents[3]
REPO = "org/Tiny-Model"
TOKEN = "hf_abcdefghijklmnop"
_ASK = """
import json, logging, sys
from pathlib import Path
from quantmill.records.artifact import Origin
from quantmill.errors import QuantmillError
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.source import download, snapshots
from tasks.source import places as sources
from tasks.sandbox import Sandbox
request, home, action = ModelRequest(source=sys.argv[1], revision=sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
logging.basicConfig(level=logging.INFO, format="%(message)s")
try:
    if action == "preview":
        print(download.preview_source(request, home).model_dump_json())
    else:
        home.mkdir(exist_ok=True)
        origin = download.inspect_source(request, home)
        if action == "fetch":
            sources.open_source(request, home).fetch(origin)
        if action == "snapshot":
            sandbox = Sandbox(Settings(home=home))
            made = download.fetch_snapshot(origin, open_store(home / "store"), sandbox)
            snapshots.local_folder(made, sandbox)
            print(made.model_dump_json())
        else:
            print(origin.model_dump_json())
except QuantmillError as error:
    print(json.dumps({"error": type(error).__name__, "code": error.exit_code, "words": str(error)}))
"""


class Client:
    """Asks a hub from a process of its own."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.home, self.url, self.log = hub, folder / "home", hub.url, ""
        self._folder = folder

    def ask(self, action: str, revision: str = "", token: str = "", source: str = f"hf://{REPO}") -> dict[str, Any]:
        """Return an origin, a preview, or what was raised."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(
            [sys.executable, "-c", _ASK, source, revision, str(self.home), action],
            env=kept
            | {"HF_ENDPOINT": self.url, "HF_HOME": str(self._folder / "hf"), "PYTHONPATH": str(ROOT)}
            | ({"HF_TOKEN": token} if token else {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.log = done.stderr
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def folder(self, commit: str) -> Path:
        return self.home / "hub" / "models--org--Tiny-Model" / "snapshots" / commit


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A model of 3 MB, with what else a repository holds."""
    import numpy
    from safetensors.numpy import save_file

    folder = model_folder(tmp_path / "model", {"auto_map": {"AutoModel": "modeling.Model"}})
    save_file({"w": numpy.arange(750_000, dtype=numpy.float32)}, folder / "model.safetensors")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    extra = dict.fromkeys(("pytorch_model.bin", "modeling.py", "README.md", "onnx/model.onnx"), b"\x80\x04.")
    return made | extra


def test_a_branch_becomes_a_commit_and_only_model_files_are_fetched(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    first = hub.commit(REPO, files)
    seen = client.ask("preview")
    assert (seen["download_bytes"], seen["architecture"]["hidden_size"]) == (
        sum(len(files[name]) for name in ("config.json", "tokenizer.json", "model.safetensors")),
        CONFIG["hidden_size"],
    )
    assert not client.home.exists(), "a preview leaves nothing"
    assert not hub.fetched("model.safetensors") and not hub.fetched("tokenizer.json")
    found = client.ask("inspect")
    assert (found["resolved"], found["license"]) == (first, "apache-2.0")
    assert [file["path"] for file in found["files"]] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not hub.fetched("model.safetensors"), "its digest is known without its bytes"
    assert client.ask("fetch") == found
    assert sorted(path.name for path in client.folder(first).iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (client.folder(first) / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert "source: downloaded 4 of 4 MB" in client.log
    asked = len(hub.requests)
    client.ask("fetch")
    assert len(hub.requests) == asked + 1, "what was fetched costs one question: which commit the branch is at"


def test_a_model_in_parts_becomes_a_snapshot_that_can_be_made_again(
    hub: HubServer, client: Client, tmp_path: Path
) -> None:
    import shutil

    folder = sharded_folder(tmp_path / "parts", auto_map={"AutoModel": "modeling.Model"})
    stray = {"consolidated.safetensors": ONE_WEIGHT, "modeling.py": b"import os"}
    commit = hub.commit(REPO, {path.name: path.read_bytes() for path in folder.iterdir()} | stray)
    made = Snapshot.model_validate(client.ask("snapshot"))
    assert [file.path for file in made.files] == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip
    assert (made.parameters, made.origin.resolved) == (12, commit)
    assert made.notes == ("auto_map removed from config.json", "weights rounded from F32 to BF16")
    assert b"auto_map" not in (client.home / "snapshots" / made.digest / "config.json").read_bytes()
    assert not hub.fetched("consolidated.safetensors") and not hub.fetched("modeling.py")
    hub.commit(REPO, {"config.json": b"{}"})  # the branch moves on; what is pinned stays
    shutil.rmtree(client.home / "snapshots")
    shutil.rmtree(client.home / "hub")
    assert Snapshot.model_validate(client.ask("snapshot", revision=commit)).digest == made.digest


def test_a_commit_stays_where_the_branch_moves_and_needs_no_hub_once_fetched(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    first = hub.commit(REPO, files)
    client.ask("fetch")
    second = hub.commit(REPO, files | {"config.json": json.dumps(CONFIG | {"vocab_size": 101}).encode()})
    assert client.ask("inspect")["resolved"] == second
    assert client.ask("inspect", revision=first)["resolved"] == first
    client.url = "http://127.0.0.1:9"  # nobody answers there
    assert client.ask("fetch", revision=first)["resolved"] == first
    for memo in (client.home / "origins").iterdir():
        memo.unlink()
    again = Origin.model_validate(client.ask("fetch", revision=first))
    assert [file.path for file in again.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    for revision in ("", "0" * 40):
        gone = client.ask("inspect", revision=revision)
        assert (gone["error"], gone["code"]) == ("DownloadError", 1)
        assert gone["words"].startswith("model.source: hf://org/Tiny-Model: the hub does not answer")
        assert "\n" not in gone["words"]


def test_a_connection_that_breaks_goes_on_where_it_was(hub: HubServer, client: Client, files: dict[str, bytes]) -> None:
    """The client keeps what it has in pieces of 10 MiB."""
    import numpy
    from safetensors.numpy import save

    weights = save({"w": numpy.arange(8_000_000, dtype=numpy.float32)})
    commit = hub.commit(REPO, files | {"model.safetensors": weights})
    hub.cut("model.safetensors", 25_000_000, 0)
    assert client.ask("fetch")["resolved"] == commit
    ranges = [seen.range for seen in hub.fetched("model.safetensors")]
    assert ranges == ["", f"bytes={20 << 20}-", f"bytes={20 << 20}-"]
    assert hub.bytes_sent < len(weights) + (5 << 20), "what was kept was not sent again"


def test_a_hub_that_gives_up_is_one_line_and_the_rerun_fetches_the_rest(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    hub.commit(REPO, files)
    client.ask("inspect")
    hub.cut("model.safetensors", *[0] * 6)  # the client tries six times without a byte
    failed = client.ask("fetch")
    assert failed["error"] == "DownloadError"
    assert "the same command goes on" in failed["words"]
    assert client.ask("fetch")["files"]
    assert len(hub.fetched("tokenizer.json")) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_bytes_that_are_not_those_of_the_digest_are_dropped(
    hub: HubServer, client: Client, files: dict[str, bytes], name: str
) -> None:
    commit = hub.commit(REPO, files)
    hub.swap(name, files[name][:-1] + b"!")
    refused = client.ask("fetch")
    assert (refused["error"], refused["code"]) == ("VerificationError", 4)
    assert f"hf://org/Tiny-Model: {name}: the" in refused["words"]
    assert not (client.folder(commit) / name).exists()
    hub.swap(name, None)
    assert client.ask("fetch")["resolved"] == commit


def test_a_gated_model_with_and_without_a_token(hub: HubServer, client: Client, files: dict[str, bytes]) -> None:
    hub.commit(REPO, files)
    hub.gate(REPO, TOKEN)
    for token in ("", "hf_another"):
        refused = client.ask("preview", token=token)
        assert (refused["error"], refused["code"]) == ("SourceError", 2)
        assert refused["words"] == (
            "model.source: hf://org/Tiny-Model: gated; accept its licence on its page and set HF_TOKEN to a"
            " token of that account"
        )
    assert client.ask("fetch", token=TOKEN)["files"]
    written = [path for path in client.home.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()], "the token is written nowhere"
    assert TOKEN not in client.log


def index(part: str) -> dict[str, bytes]:
    return {"model.safetensors.index.json": json.dumps({"weight_map": {"w": part}}).encode()}


def config(**changes: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps(CONFIG | changes).encode()}


@pytest.mark.parametrize(
    ("without", "extra", "words"),
    [
        ("model.safetensors", {}, "found pytorch_model.bin; weights are taken as model.safetensors"),
        ("model.safetensors", {"m.gguf": b"GGUF", "pytorch_model.bin": b""}, "found m.gguf, pytorch_model.bin;"),
        ("tokenizer.json", {}, "hf://org/Tiny-Model: tokenizer.json is missing"),
        ("", config(architectures=["BertModel"]), "BertModel: a causal language model"),
        ("", config(quantization_config={"quant_method": "awq"}), "quantized with awq already"),
        ("model.safetensors", index("../../up.safetensors"), "not a plain relative path: '../../up.safetensors'"),
        ("model.safetensors", index("part.safetensors"), "weights file 'part.safetensors' is not there"),
        ("model.safetensors", index("pytorch_model.bin"), "weights file 'pytorch_model.bin' is not there"),
    ],
)
def test_what_cannot_be_compressed_is_refused_before_its_weights(
    hub: HubServer, client: Client, files: dict[str, bytes], without: str, extra: dict[str, bytes], words: str
) -> None:
    hub.commit(REPO, {name: data for name, data in (files | extra).items() if name != without})
    refused = client.ask("preview")
    assert (refused["error"], refused["code"]) == ("SourceError", 2), refused
    assert words in refused["words"]
    assert not hub.fetched("model.safetensors")


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("hf://org/nothing", "", "model.source: hf://org/nothing: the hub has no such repository, or it is private"),
        (f"hf://{REPO}", "v9", f"model.revision: v9: hf://{REPO} has no such branch, tag or commit"),
        ("hf://name", "", "model.source: hf://name: write it as hf://org/name"),
        ("hf://org/name/more", "", "write it as hf://org/name"),
        ("hf://org/../name", "", "write it as hf://org/name"),
        ("hf://org/name.git", "", "not a name that a hub allows"),
    ],
)
def test_names_that_are_wrong(
    hub: HubServer, client: Client, files: dict[str, bytes], source: str, revision: str, words: str
) -> None:
    hub.commit(REPO, files)
    refused = client.ask("preview", source=source, revision=revision)
    assert (refused["error"], refused["code"]) == ("SourceError", 2), refused
    assert words in refused["words"]


def test_the_download_counts_among_the_bytes_that_a_run_needs(
    hub: HubServer, client: Client, files: dict[str, bytes]
) -> None:
    from quantmill.records import planning

    hub.commit(REPO, files)
    origin = Origin.model_validate(client.ask("inspect"))
    specs = parse_recipe({"model": {"source": "x"}, "variants": [{"method": "gguf", "type": "Q8_0"}]}).expand()
    local = origin.model_copy(update={"request": origin.request.model_copy(update={"source": "./folder"})})
    assert planning.disk_bytes(origin, specs) - planning.disk_bytes(local, specs) == origin.size_bytes


def test_bytes_through_the_newer_storage_are_counted_once() -> None:
    """Its client reports what came and what was written; no server for it is played here, only its reporter."""
    import logging
    from types import SimpleNamespace

    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    from tasks.hub import bar_of

    counted: list[int] = []
    named = {
        "reconstruction_desc": "",
        "total": 90,
        "log_level": logging.WARNING,
        "tqdm_class": bar_of(counted.append),
    }
    with XetDownloadProgressReporter(**named) as reporter:
        for done in (30, 90):
            state = {"total_bytes_completed": done, "total_transfer_bytes_completed": done, "total_bytes": 90}
            rates = {"total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0}
            reporter.update_progress(SimpleNamespace(**state, **rates))
    assert counted == [30, 60]


def test_what_a_killed_run_left_is_removed(hub: HubServer, client: Client, files: dict[str, bytes]) -> None:
    commit = hub.commit(REPO, files)
    client.ask("inspect")
    left = client.folder(commit).parent.parent / "blobs" / f"{'0' * 64}.12345678.incomplete"
    left.write_bytes(b"half")
    client.ask("fetch")
    assert not left.exists()
