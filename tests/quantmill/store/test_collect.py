"""Garbage collection keeps what is needed, removes old garbage, and never harms a concurrent publish."""

import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantmill.cli import app
from quantmill.errors import StoreError, VerificationError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import StageResult
from quantmill.store import channels, leases
from quantmill.store.collect import Rules, collect, find
from quantmill.store.folder import FolderObjects
from quantmill.store.layout import blob_key, manifest_key
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.samples import manifest, version

NOTHING_KEPT = Rules(grace_s=0, retention_s=0, newest=0)


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


def add(store: Store, folder: Path, text: str) -> tuple[FileEntry, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "w").write_text(text)
    return store.add_folder(folder)


def publish(store: Store, folder: Path, text: str) -> str:
    made = manifest(add(store, folder, text))
    store.commit(made, version(made))
    return made.digest


def settle(store: Store) -> None:
    """Let what was written grow older than a grace of nothing: a bucket's clock counts seconds."""
    time.sleep(1.1 if store.uri.startswith("s3:") else 0.02)


def kinds(store: Store, rules: Rules) -> list[str]:
    return sorted({garbage.kind for garbage in collect(store, rules)})


def test_only_what_nothing_needs_goes(store: Store, tmp_path: Path) -> None:
    kept, dead = publish(store, tmp_path / "a", "kept"), publish(store, tmp_path / "b", "dead")
    channels.promote(store, "m", "stable", {"v": dead}, "once")
    channels.promote(store, "m", "stable", {"v": kept}, "now")
    cached = add(store, tmp_path / "c", "cached")
    store.record(StageResult(stage="artifact", key="cd" * 32, blobs=cached, value={}, made_at=time.time()))
    settle(store)
    assert kinds(store, NOTHING_KEPT) == [], "a channel that named a version once may go back to it"
    abandoned = add(store, tmp_path / "d", "abandoned")
    never = publish(store, tmp_path / "e", "never in a channel")
    settle(store)
    assert kinds(store, NOTHING_KEPT._replace(grace_s=3600)) == [], "all of it is young"
    assert kinds(store, NOTHING_KEPT._replace(retention_s=3600)) == [], "the version is young, the rest is leased"
    assert kinds(store, NOTHING_KEPT._replace(newest=1)) == [], "the version is its variant's newest"
    store.leases.release(entry.sha256 for entry in abandoned)
    assert [one.listed.key for one in find(store, NOTHING_KEPT._replace(newest=1))] == [blob_key(abandoned[0].sha256)]
    found = find(store, NOTHING_KEPT)
    assert collect(store, NOTHING_KEPT) == found
    assert [one.kind for one in found] == ["versions", "manifests", "blobs", "blobs"]
    assert {held.manifest for held in store.versions("m", "v")} == {kept, dead}
    assert never not in {held.manifest for held in store.versions("m", "v")}
    store.fetch((*store.manifest(kept).files, *store.manifest(dead).files, *cached), tmp_path / "out")


def test_an_expired_stage_result_goes_with_its_blobs(place: str, tmp_path: Path) -> None:
    store = open_store(place, stage_days=1e-9)
    files = add(store, tmp_path / "a", "x")
    store.record(StageResult(stage="artifact", key="cd" * 32, blobs=files, value={}, made_at=time.time()))
    settle(store)
    assert kinds(store, NOTHING_KEPT) == ["blobs", "stage results"]


def test_what_cannot_be_read_stops_the_collection(store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "a", "x")
    (abandoned,) = add(store, tmp_path / "b", "y")
    store.leases.release([abandoned.sha256])
    settle(store)
    store.objects.replace(manifest_key(digest), b"{}")
    with pytest.raises(VerificationError, match=digest):
        collect(store, Rules(grace_s=0))
    store.objects.create("leases/damaged.json", b"{")
    with pytest.raises(StoreError, match=r"damaged\.json: not a lease"):
        collect(store, Rules(grace_s=0))
    assert store.has_blob(abandoned), "nothing is removed on a guess"


def test_an_expired_lease_protects_nothing(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path / "a", "x")
    (lease,) = store.objects.under("leases/")
    held = store.objects.read(lease.key)
    assert held is not None
    store.objects.replace(lease.key, keys.canonical(json.loads(held.data) | {"expires_at": time.time() - 61}))
    settle(store)
    assert kinds(store, NOTHING_KEPT) == ["blobs", "leases"]
    assert not list(store.objects.under("leases/"))


def test_a_lease_is_dropped_with_the_record_and_renewed_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.6)
    files = add(store, tmp_path / "a", "x")
    first = [store.objects.read(lease.key) for lease in store.objects.under("leases/")]
    time.sleep(1.0)
    second = [store.objects.read(lease.key) for lease in store.objects.under("leases/")]
    assert len(first) == len(second) == 1
    assert first != second, "it is renewed"
    store.record(StageResult(stage="artifact", key="cd" * 32, blobs=files, value={}, made_at=time.time()))
    assert not list(store.objects.under("leases/"))


@pytest.mark.parametrize("failure", [StoreError("it does not answer"), OSError(28, "No space left on device")])
def test_a_renewal_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """A store that is away for a moment costs a long publish nothing."""
    monkeypatch.setattr(leases, "LEASE_S", 0.9)
    troubles = [failure, failure]

    class Moody(FolderObjects):
        def replace(self, key: str, data: bytes) -> None:
            if key.startswith("leases/") and began and troubles:
                raise troubles.pop()
            super().replace(key, data)

    began = False
    held = leases.Leases(Moody(tmp_path))
    held.hold(["ab" * 32])
    began = True
    time.sleep(1.5)
    assert not troubles, "it was tried again"
    held.require()


def test_a_publish_waits_for_a_sweep_and_two_sweeps_do_not_meet(store: Store, tmp_path: Path) -> None:
    began, done = threading.Event(), threading.Event()

    def late() -> None:
        began.set()
        publish(store, tmp_path / "a", "x")
        done.set()

    with leases.sweeping(store.objects):
        thread = threading.Thread(target=late)
        thread.start()
        began.wait()
        assert not done.wait(0.5)
        with pytest.raises(StoreError, match="another collection is at work"):
            collect_once(store)
    thread.join()
    assert done.is_set()


def collect_once(store: Store) -> None:
    with leases.sweeping(store.objects):
        pass


def test_a_sweep_that_was_killed_holds_nobody_up_for_ever(store: Store, tmp_path: Path) -> None:
    store.objects.create("sweep.json", keys.canonical({"id": "dead", "expires_at": time.time() + 0.5}))
    publish(store, tmp_path / "a", "x")
    settle(store)
    assert kinds(store, NOTHING_KEPT) == ["blobs", "manifests", "versions"]


def test_a_sweep_of_a_wrong_clock_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock was years ahead was killed in a sweep."""
    store = open_store(tmp_path / "store")
    store.objects.create("sweep.json", keys.canonical({"id": "dead", "expires_at": time.time() + 1e8}))
    monkeypatch.setattr(leases, "SWEEP_S", 0.5)
    thread = threading.Thread(target=publish, args=(store, tmp_path / "a", "x"), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "none lasts longer than a sweep may"
    assert store.models() == {"m": ["v"]}
    collect_once(store)
    assert store.objects.read("sweep.json") is None


def test_unfinished_writes_are_removed(folder_or_bucket_with_a_rest: Store) -> None:
    store = folder_or_bucket_with_a_rest
    settle(store)
    assert kinds(store, Rules(grace_s=0)) == []
    (found,) = collect(store, Rules(grace_s=0, unfinished_s=0))
    assert (found.kind, found.listed.size_bytes) == ("unfinished writes", 5 << 20)
    assert not list(store.objects.unfinished())


@pytest.fixture
def folder_or_bucket_with_a_rest(store: Store, request: pytest.FixtureRequest) -> Store:
    """A store in which a writer was killed: bytes lie there under no key."""
    if store.uri.startswith("s3://"):
        client = request.getfixturevalue("s3_session").client()
        at = {"Bucket": "bucket", "Key": f"{store.uri.removeprefix('s3://bucket/')}/blobs/sha256/ab/{'ab' * 32}"}
        upload = client.create_multipart_upload(**at)["UploadId"]
        client.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"x" * (5 << 20))
    else:
        rest = Path(store.uri) / "blobs" / "sha256" / "ab" / f".{'ab' * 32}.0123456789ab"
        rest.parent.mkdir(parents=True)
        rest.write_bytes(b"x" * (5 << 20))
    return store


def test_the_command(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMILL_STORE", place)
    publish(open_store(place), tmp_path / "a", "x")
    for more in ([], ["--dry-run"]):
        ran = CliRunner().invoke(app, ["gc", "--grace", "1", *more])
        assert ran.exit_code == 0, ran.output
        assert "blobs" in ran.output
    assert open_store(place).versions("m", "v")
    assert CliRunner().invoke(app, ["gc", "--grace", "0.5"]).exit_code == 2
