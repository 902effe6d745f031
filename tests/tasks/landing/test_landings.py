"""Landings: what watched sources hold, what changed; each revision is announced and taken once."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from quantmill.errors import DownloadError, NotFound, QuantmillError, RequestError
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.settings import Settings
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks.landing import landings
from tasks.landing.landings import Landing
from tasks.landing.places import look
from tasks.landing.watchlist import WatchEntry, read_watchlist
from tasks.source.sights import NotYet, Sight
from tests.bucket import Bucket
from tests.hub_server import HubServer
from tests.model_folders import model_folder, sharded_folder

RECIPE: dict[str, Any] = {
    "model": {"source": "./any"},
    "variants": [{"method": "gguf", "type": ["Q8_0", "Q4_K_M"]}],
    "publish": {"model": "any"},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants

    with HubServer() as server:
        # What HF_ENDPOINT sets, which is read once, when the library is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def entry(recipe: Path, source: str, **fields: Any) -> WatchEntry:
    return WatchEntry.model_validate({"source": source, "recipe": recipe, "quiet_s": 0} | fields)


def found(entry: WatchEntry, home: Path, store: Store) -> list[Sight | NotYet]:
    return list(look(entry, home, lambda model, revision: landings.is_known(store, model, revision)))


def land(entry: WatchEntry, home: Path, store: Store) -> list[Landing]:
    """Look, and claim what is new, as the flow does."""
    made = []
    for sight in found(entry, home, store):
        if isinstance(sight, Sight) and (landing := landings.describe(sight, entry, store)):
            assert landings.claim(store, landing)
            made.append(landing)
    return made


def test_a_folder_lands_once_and_says_what_changed(recipe: Path, home: Path, store: Store, tmp_path: Path) -> None:
    place = entry(recipe, f"{tmp_path}/landing/*")
    assert found(place, home, store) == [], "a place that is not there yet"
    model = model_folder(place_of(tmp_path) / "tiny", chat_template__jinja=b"{{ messages }}")
    (first,) = land(place, home, store)
    assert (first.model, first.changed) == (str(model), "new")
    assert land(place, home, store) == []

    shutil.copytree(model, tmp_path / "copy")
    shutil.rmtree(model)
    shutil.copytree(tmp_path / "copy", model)
    assert land(place, home, store) == [], "the same bytes were dropped there again"

    asked = parse_recipe(first.recipe)
    assert asked.model.source == str(model)
    assert first.revision == asked.model.revision
    assert asked.model_name == "tiny", "published under the model's own name"
    assert [spec.name for spec in asked.expand()] == ["gguf-q8_0", "gguf-q4_k_m"]

    (model / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert [landing.changed for landing in land(place, home, store)] == ["files"]
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    assert [landing.changed for landing in land(place, home, store)] == ["tokenizer"]
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}')
    assert land(place, home, store) == [], "it went back to a revision that was seen"


def place_of(tmp_path: Path) -> Path:
    (tmp_path / "landing").mkdir(exist_ok=True)
    return tmp_path / "landing"


def test_a_folder_that_is_still_being_copied_is_left_alone(
    recipe: Path, home: Path, store: Store, tmp_path: Path
) -> None:
    whole, landing = sharded_folder(tmp_path / "whole"), place_of(tmp_path)
    place = entry(recipe, f"{landing}/*")
    (landing / "tiny").mkdir()
    for name in sorted(path.name for path in whole.iterdir()):
        data = (whole / name).read_bytes()
        for size in (len(data) // 2, len(data)):
            (what,) = found(place, home, store)
            assert isinstance(what, NotYet), name
            (landing / "tiny" / name).write_bytes(data[:size])
    assert isinstance(found(place, home, store)[0], Sight)
    assert store.uri and not Path(store.uri).exists(), "nothing is remembered of what is not whole"


def test_whole_but_not_quiet_yet(recipe: Path, home: Path, store: Store, tmp_path: Path) -> None:
    import os

    model = model_folder(place_of(tmp_path) / "tiny")
    os.utime(model / "config.json", (0, 0))  # cp -p keeps times; what counts is when the entry changed here
    (what,) = found(entry(recipe, f"{tmp_path}/landing/*", quiet_s=30), home, store)
    assert isinstance(what, NotYet)
    assert "it counts after 30 s" in what.why
    time.sleep(0.05)
    (what,) = found(entry(recipe, f"{tmp_path}/landing/*", quiet_s=0.02), home, store)
    assert isinstance(what, Sight)


def test_hidden_folders_files_and_other_names_are_passed_over(
    recipe: Path, home: Path, store: Store, tmp_path: Path
) -> None:
    for name in (".tiny", "other", "tiny-1"):
        model_folder(place_of(tmp_path) / name)
    (place_of(tmp_path) / "tiny-2").write_text("a file")
    (what,) = found(entry(recipe, f"{tmp_path}/landing/tiny*"), home, store)
    assert what.model.endswith("/tiny-1")


def test_models_of_an_organisation(recipe: Path, home: Path, store: Store, hub: HubServer, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in model_folder(tmp_path / "m").iterdir()}
    for name in ("SmolLM-1", "SmolLM-2", "SmolLM-3", "Other"):
        hub.commit(f"org/{name}", files)
    hub.commit("org/SmolLM-gguf", {"model.gguf": b"GGUF"})
    hub.repos["org/SmolLM-3"].modified_at = "2026-10-31T23:59:59.000Z"
    hub.commit("another/SmolLM-1", files)
    place = entry(recipe, "hf://org/SmolLM-*", since="2026-11-01")
    (refused,) = [what for what in found(place, home, store) if isinstance(what, NotYet)]
    assert (refused.model, "weights are taken as" in refused.why) == ("hf://org/SmolLM-gguf", True)
    first = land(place, home, store)
    assert [landing.model for landing in first] == ["hf://org/SmolLM-1", "hf://org/SmolLM-2"]
    assert parse_recipe(first[0].recipe).model.revision == hub.repos["org/SmolLM-1"].refs["main"] == first[0].revision

    hub.requests.clear()
    assert land(place, home, store) == []
    assert not [seen for seen in hub.requests if "SmolLM-1" in seen.path], "a commit that is known is not asked about"

    hub.commit("org/SmolLM-1", files | {"README.md": b"a card"})
    hub.commit("org/SmolLM-2", files | {"config.json": files["config.json"] + b"\n"})
    changed = {landing.model: landing.changed for landing in land(place, home, store)}
    assert changed == {"hf://org/SmolLM-1": "files", "hf://org/SmolLM-2": "weights"}
    hub.commit("org/SmolLM-1", files | {"README.md": b"a card", "onnx/model.onnx": b"1", ".gitattributes": b"*"})
    assert land(place, home, store) == [], "no part of the model changed"
    assert not hub.fetched("model.safetensors")


def test_a_hub_that_does_not_answer(recipe: Path, home: Path, store: Store, hub: HubServer) -> None:
    hub.__exit__()
    with pytest.raises(DownloadError, match="hf://org: the hub does not answer"):
        found(entry(recipe, "hf://org/*"), home, store)


def test_folders_below_a_prefix(recipe: Path, home: Path, store: Store, bucket: Bucket) -> None:
    bucket.objects["models/readme.txt"] = b"no model"
    place = entry(recipe, "s3://bucket/models/*")
    tiny, incomplete = sorted(found(place, home, store))
    assert isinstance(incomplete, NotYet)
    assert (incomplete.model, tiny.model) == ("s3://bucket/models/tiny-2", "s3://bucket/models/tiny")
    (landing,) = land(place, home, store)
    assert parse_recipe(landing.recipe).model.source == "s3://bucket/models/tiny"
    bucket.given.clear()
    assert land(place, home, store) == []
    assert not set(bucket.given) - {"config.json"}
    bucket.objects["models/tiny/generation_config.json"] = b"{}"
    assert [landing.changed for landing in land(place, home, store)] == ["files"]
    bucket.objects["models/tiny/config.json"] += b"\n"
    bucket.changed_at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    (what,) = found(entry(recipe, "s3://bucket/models/tiny", quiet_s=60), home, store)
    assert isinstance(what, NotYet)
    assert "it counts after 60 s" in what.why


def test_registered_models(
    recipe: Path, home: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    place = entry(recipe, "mlflow://models/base-*")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("QUANTMILL_MLFLOW_URI", uri)
    assert found(place, home, store) == [], "nothing is registered, and no database is made"
    assert not (tmp_path / "mlflow.db").exists()
    client = MlflowClient(uri, uri)
    folder = model_folder(tmp_path / "m")
    for name in ("base-a", "published", "base-b"):
        client.create_registered_model(name)
        client.create_model_version(name, str(folder))
    client.create_model_version("base-a", str(folder))
    client.create_model_version("base-a", f"quantmill://base-a/gguf-q8_0@{'0' * 64}")  # what we made of it
    made = land(place, home, store)
    assert [(landing.model, landing.revision) for landing in made] == [
        ("mlflow://models/base-a", "2"),
        ("mlflow://models/base-b", "1"),
    ]
    assert parse_recipe(made[0].recipe).model.source == "mlflow://models/base-a/2"
    assert land(place, home, store) == []


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"model.safetensors": "1"}, {"model.safetensors": "1"}, None),
        ({"chat_template.jinja": "1"}, {"chat_template.jinja": "2"}, "files"),
        ({}, {"LICENSE": "1", "README.md": "1", "generation_config.json": "1"}, "files"),
        ({"chat_template.jinja": "1", "tokenizer.json": "1"}, {"tokenizer.json": "2"}, "tokenizer"),
        ({"tokenizer.json": "1", "a.safetensors": "1"}, {"tokenizer.json": "2"}, "weights"),
        ({"config.json": "1"}, {"config.json": "2"}, "weights"),
    ],
)
def test_what_changed(before: dict[str, str], now: dict[str, str], changed: str | None) -> None:
    assert landings.what_changed(before, now) == changed


def made_landing(revision: str = "r1", seen_at: float = 1.0) -> Landing:
    return Landing(model="m", revision=revision, changed="new", files={}, recipe={}, seen_at=seen_at)


def test_of_many_watchers_one_claims_and_of_many_runs_one_begins(store: Store) -> None:
    landing = made_landing()
    for act in (lambda _: landings.claim(store, landing), lambda run: landings.begin(store, landing.key, run)):
        won, barrier = list[bool](), threading.Barrier(8)

        def race(number: int, act: Any = act, barrier: threading.Barrier = barrier, won: list[bool] = won) -> None:
            barrier.wait()
            won.append(act(str(number)))

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False] * 7 + [True]


def test_a_landing_without_a_run_is_found_again(store: Store) -> None:
    first, second = made_landing("r1", 2.0), made_landing("r2", 1.0)
    for landing in (first, second):
        landings.claim(store, landing)
    assert landings.unbegun(store) == [second, first]
    assert landings.begin(store, second.key, "run")
    assert landings.begin(store, second.key, "run"), "the same run, started anew"
    assert landings.unbegun(store) == [first]
    with pytest.raises(NotFound, match="nothing of that key was seen"):
        landings.begin(store, "landings/a/b", "run")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("watch: []", "watch: Tuple should have at least 1 item"),
        ("nothing", "content: Input should be a valid dictionary"),
        ("watch: [{source: 'hf://org/*'}]", r"watch\[0\]\.recipe: Field required"),
        ("watch: [{source: 'hf://org/*', recipe: none.yaml}]", r"watch\[0\]\.recipe: no such file, got 'none.yaml'"),
        ("watch: [{source: 'hf://*', recipe: r.yaml}]", r"watch\[0\]\.source: write it as hf://org/pattern"),
        ("watch: [{source: 'hf://*/x', recipe: r.yaml}]", r"watch\[0\]\.source: write it as"),
        ("watch: [{source: 'mlflow://a/*', recipe: r.yaml}]", r"watch\[0\]\.source: write it as"),
        (
            "watch: [{source: 'nowhere://a/*', recipe: r.yaml}]",
            r"watch\[0\]\.source: cannot be watched; allowed are folder/",
        ),
        ("watch: [{source: folder, recipe: r.yaml}]", r"watch\[0\]\.source: write it as"),
        ("watch: [{source: a/*, recipe: r.yaml, quiet_s: -1}]", r"watch\[0\]\.quiet_s: Input should be greater"),
        ("watch: [{source: a/*, recipe: r.yaml, recipes: 1}]", r"watch\[0\]\.recipes: Extra inputs"),
        ("watch: [*x]", "cannot be read as YAML"),
    ],
)
def test_a_watch_list_is_refused_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "list.yaml").write_text(content)
    with pytest.raises(RequestError, match=f"^{tmp_path}/list.yaml: {words}") as raised:
        read_watchlist(tmp_path / "list.yaml")
    assert "\n" not in str(raised.value)


def test_the_watch_list_that_is_shipped_can_be_read() -> None:
    root = Path(__file__).resolve().parents[3]
    entries = read_watchlist(root / "deployments" / "watchlist.yaml")
    assert entries[0].matches(f"{root}/landing/a-model")
    assert not entries[0].matches("hf://org/a-model")


def test_an_announced_source_is_looked_for_by_the_entry_that_matches(tmp_path: Path) -> None:
    from flows.watch import entries_for

    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(RECIPE))
    watched = [{"source": "hf://org/x-*", "recipe": "a.yaml"}, {"source": "hf://org/*", "recipe": "b.yaml"}]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"watch": watched}))
    assert [one.source for one in entries_for("", tmp_path / "list.yaml")] == ["hf://org/x-*", "hf://org/*"]
    (first,), (second,) = (entries_for(f"hf://org/{name}", tmp_path / "list.yaml") for name in ("x-1", "y"))
    assert (first.recipe.name, first.wants("x-1"), first.wants("x-2")) == ("a.yaml", True, False)
    assert second.recipe.name == "b.yaml"
    for stranger in ("hf://other/x-1", "s3://org/x-1", "x-1"):
        with pytest.raises(RequestError, match=f"^source: {stranger}: no entry of .*list.yaml matches it$"):
            entries_for(stranger, tmp_path / "list.yaml")


def previewed(tmp_path: Path, *watched: dict[str, Any]) -> tuple[list[str], str]:
    """Return what `preview` tells for a watch list, and its error.

    Each entry of the list has a recipe of its own: `0.yaml`, `1.yaml`.
    """
    from flows.watch import preview

    entries = [{"recipe": f"{number}.yaml", "quiet_s": 0} | fields for number, fields in enumerate(watched)]
    for one in entries:
        (tmp_path / one["recipe"]).write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"watch": entries}))
    told, error = list[str](), ""
    settings = Settings(home=tmp_path / "home", store=str(tmp_path / "store"), watchlist=tmp_path / "list.yaml")
    try:
        preview(settings, told.append)
    except QuantmillError as raised:
        error = str(raised)
    return [line.replace(f"{tmp_path}/", "") for line in told], error.replace(f"{tmp_path}/", "")


def test_what_cannot_be_read_stops_nothing_else(home: Path, tmp_path: Path) -> None:
    model_folder(place_of(tmp_path) / "b")
    # Whoever runs this reads any folder, if it is root; a name that is too long nobody can.
    (place_of(tmp_path) / "a").symlink_to("n" * 300)
    (tmp_path / "place").symlink_to("n" * 300)
    told, error = previewed(tmp_path, {"source": "place/*"}, {"source": "landing/*"})
    assert told[0] == "landing/a: not taken: cannot be read (File name too long)"
    assert [line.split()[0] for line in told[1:]] == ["landing/b"]
    assert error == "place/*: cannot be read (File name too long)"


@pytest.mark.parametrize(
    ("first", "ends"),
    [
        ({"quiet_s": 300}, ["it counts after 300 s"]),
        ({"since": "2999-01-01"}, []),
        ({}, ["by 0.yaml"]),
    ],
)
def test_a_model_is_the_first_entrys_that_matches_it(
    home: Path, tmp_path: Path, first: dict[str, Any], ends: list[str]
) -> None:
    for name in ("llama-1", "other"):
        model_folder(place_of(tmp_path) / name)
    (place_of(tmp_path) / "llama-2").symlink_to("n" * 300)
    told, error = previewed(tmp_path, {"source": "landing/llama-*"} | first, {"source": "landing/*"})
    assert error == ""
    of_it = [line for line in told if line.startswith("landing/llama-1")]
    assert [line[-len(end) :] for line, end in zip(of_it, ends, strict=True)] == ends
    assert sum(line.startswith("landing/llama-2: not taken: cannot be read") for line in told) == 1
    (other,) = [line for line in told if line.startswith("landing/other")]
    assert other.endswith("by 1.yaml")


def test_all_lines_on_the_way_are_asked_for() -> None:
    from prefect.client.orchestration import PrefectClient

    from flows.watch import on_the_way

    runs = [{"id": str(uuid4()), "flow_id": str(uuid4()), "parameters": {"landing": f"l{n}"}} for n in range(450)]
    runs[7]["parameters"] = {}  # started by hand
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/flow_runs/filter"):
            return httpx.Response(404)
        asked.append(json.loads(request.content))
        if len(asked) == 2:
            return httpx.Response(500)
        first, size = asked[-1]["offset"], asked[-1]["limit"] or 200
        return httpx.Response(422 if size > 200 else 200, json=runs[first : first + size])

    async def ask() -> set[str]:
        settings = {"transport": httpx.MockTransport(answer)}
        async with PrefectClient("http://prefect/api", httpx_settings=settings) as client:
            return await on_the_way(client)

    assert asyncio.run(ask()) - {""} == {f"l{n}" for n in range(450)} - {"l7"}
    assert {body["sort"] for body in asked} == {"ID_DESC"}
