"""Side records are append-only, kept and removed with their version; readers ignore unknown records."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantmill.cli import app
from quantmill.errors import LayoutTooNew, VerificationError
from quantmill.files import keys
from quantmill.store.collect import Rules, collect, find
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.published import publish

V = "gguf-q8_0"


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


def key(digest: str, name: str) -> str:
    return f"models/m/{V}/records/{digest}/{name}.json"


def shown(store: Store) -> list[dict[str, Any]]:
    ran = CliRunner().invoke(app, ["show", "m", "--store", store.uri, "--json", "-"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return list(json.loads(ran.stdout)["variants"][0]["records"])


def test_records_lie_beside_a_version_and_are_shown(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made").digest
    assert store.records("m", V, digest) == ()
    first = store.add_record("m", V, digest, "certificate", {"program": "llama.cpp", "at": [1, 2.5, None]})
    second = store.add_record("m", V, digest, "certificate", {"program": "vllm"})
    other = store.add_record("m", V, digest, "bounds", {})
    assert store.records("m", V, digest) == (other, first, second)
    assert [(held.kind, held.number) for held in (other, first, second)] == [
        ("bounds", 1),
        ("certificate", 1),
        ("certificate", 2),
    ]
    held = store.objects.read(key(digest, "certificate-1"))
    assert held is not None
    assert json.loads(held.data) == {
        "layout": 1, "kind": "certificate", "number": 1, "manifest": digest, "made_at": first.made_at,
        "value": {"program": "llama.cpp", "at": [1, 2.5, None]},
    }  # fmt: skip
    assert [(row["kind"], row["number"], row["value"]) for row in shown(store)] == [
        ("bounds", 1, {}),
        ("certificate", 1, first.value),
        ("certificate", 2, second.value),
    ]


def test_writers_at_once_lose_nothing(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made").digest
    together = threading.Barrier(6)

    def write(number: int) -> None:
        together.wait()
        store.add_record("m", V, digest, "seen", {"by": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = store.records("m", V, digest)
    assert [record.number for record in held] == [1, 2, 3, 4, 5, 6]
    assert sorted(record.value["by"] for record in held) == [0, 1, 2, 3, 4, 5]


def test_the_tenth_comes_after_the_ninth(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made").digest
    made = [store.add_record("m", V, digest, "seen", {}).number for _ in range(11)]
    assert [record.number for record in store.records("m", V, digest)] == made == list(range(1, 12))


def test_fields_kinds_and_names_of_a_newer_release_are_passed_over(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made").digest
    more = {"layout": 1, "kind": "horoscope", "number": 3, "manifest": digest, "made_at": 1.0, "value": {"a": 1}}
    store.objects.create(key(digest, "horoscope-3"), keys.canonical(more | {"signed_by": "me"}))
    store.objects.create(key(digest, "horoscope-3.dsse"), b"a signature")
    assert [(held.kind, held.value) for held in store.records("m", V, digest)] == [("horoscope", {"a": 1})]
    assert store.add_record("m", V, digest, "horoscope", {}).number == 4


def test_a_newer_layout_is_named_and_hides_nothing_else(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made").digest
    store.objects.create(key(digest, "bounds-1"), b'{"layout":2,"kinds":["bounds"]}')
    store.add_record("m", V, digest, "seen", {"a": 1})
    bounds, seen = store.records("m", V, digest)
    assert (bounds.is_too_new, seen.value) == (True, {"a": 1})
    with pytest.raises(LayoutTooNew, match=r"bounds-1 of version [0-9a-f]{12}: layout 2; this release reads 1"):
        assert bounds.value
    assert LayoutTooNew.exit_code == 1
    assert [row.get("problem", "") for row in shown(store)] == ["layout 2 is of a newer release", ""]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"layout":"x"}', "layout: 'x': must be a number from 1"),
        (b'{"layout":true}', "layout: 'True': must be a number from 1"),
        (b"{}", "Field required"),
        (b'{"kind":"bounds","number":1,"manifest":"%s","value":{}}' % (b"ab" * 32), "it is bounds-1 of version abab"),
    ],
)
def test_damage_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    digest = publish(store, tmp_path / "made").digest
    store.objects.create(key(digest, "bounds-1"), data)
    with pytest.raises(VerificationError, match=rf"bounds-1\.json: .*{said}"):
        store.records("m", V, digest)


@pytest.mark.parametrize(
    ("kind", "value"), [("../x", {}), ("Bounds", {}), ("a_b", {}), ("x-", {}), ("x", {"kl": float("nan")})]
)
def test_writing_is_strict(kind: str, value: dict[str, Any], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    digest = publish(store, tmp_path / "made").digest
    with pytest.raises(ValueError, match=r"kind|JSON"):
        store.add_record("m", V, digest, kind, value)
    assert store.records("m", V, digest) == ()


def test_collection_keeps_and_removes_them_with_their_version(store: Store, tmp_path: Path) -> None:
    old, new = (publish(store, tmp_path / "made", seed=seed).digest for seed in (1, 2))
    (page,) = store.add_folder(_page(tmp_path))
    store.leases.release([page.sha256])
    kept = store.add_record("m", V, new, "page", {"sha256": page.sha256})
    store.add_record("m", V, old, "page", {})
    store.add_record("m", V, "cd" * 32, "page", {"of": "a version that was never published"})
    for digest in (old, new):
        pointer = f"models/m/{V}/versions/{digest}.json"
        held = store.objects.read(pointer)
        assert held is not None
        store.objects.replace(pointer, held.data)
        time.sleep(1.1 if store.uri.startswith("s3:") else 0.02)  # a bucket's clock counts seconds
    rules = Rules(grace_s=0, retention_s=0, newest=1)
    assert "side records" not in {one.kind for one in find(store, rules._replace(retention_s=3600, grace_s=3600))}
    assert [one.kind for one in collect(store, rules)][:3] == ["versions", "side records", "side records"]
    assert store.records("m", V, new) == (kept,)
    assert store.records("m", V, old) == store.records("m", V, "cd" * 32) == ()
    assert store.has_blob(page), "a digest that a record of a kept version mentions is needed"
    assert [held.manifest for held in store.versions("m", V)] == [new]


def _page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "page.html").write_text("a certificate's page")
    return folder
