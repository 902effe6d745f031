"""The store in a folder and in a bucket: create-only writes, and the first complete result wins.

A missing blob undoes a result; races lose nothing.
"""

import threading
import time
from pathlib import Path

import pytest

from quantmill.errors import BlobMissing, NotFound, StoreError, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import StageResult
from quantmill.store.layout import blob_key
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.samples import manifest, version

KEY = "cd" * 32


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def result(files: tuple[FileEntry, ...], **value: object) -> StageResult:
    return StageResult(stage="artifact", key=KEY, blobs=files, value=dict(value), made_at=time.time())


def test_an_empty_store_holds_nothing_and_opening_writes_nothing(store: Store) -> None:
    assert store.models() == {}
    assert not list(store.objects.under("models/"))
    assert not Path(store.uri).exists()


def test_a_folder_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    source = fill(tmp_path / "a", one="1", two="2")
    (source / "deep").mkdir()
    (source / "deep" / "three").write_text("3")
    entries = store.add_folder(source)
    assert [entry.path for entry in entries] == ["deep/three", "one", "two"]
    store.fetch(entries, tmp_path / "b")
    assert {
        p.relative_to(tmp_path / "b").as_posix(): p.read_text() for p in (tmp_path / "b").rglob("*") if p.is_file()
    } == {
        "one": "1",
        "two": "2",
        "deep/three": "3",
    }


def test_equal_bytes_are_kept_once_and_linked_not_copied(folder_store: Store, tmp_path: Path) -> None:
    store = folder_store
    entries = store.add_folder(fill(tmp_path / "a", one="same", two="same"))
    blobs = [path for path in Path(store.uri, "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 1
    store.fetch(entries, tmp_path / "b")
    assert (tmp_path / "b" / "one").stat().st_ino == blobs[0].stat().st_ino


def test_links_are_refused(store: Store, tmp_path: Path) -> None:
    (fill(tmp_path / "a") / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="only plain files"):
        store.add_folder(tmp_path / "a")


def test_the_first_complete_result_wins(store: Store, tmp_path: Path) -> None:
    first = result(store.add_folder(fill(tmp_path / "a", w="1")), who="first")
    second = result(store.add_folder(fill(tmp_path / "b", w="2")), who="second")
    assert store.record(first) == first
    assert store.record(second) == first
    assert store.look_up("artifact", KEY) == first


def test_a_missing_blob_undoes_a_result_and_a_remake_replaces_it(store: Store, tmp_path: Path) -> None:
    first = result(store.add_folder(fill(tmp_path / "a", w="1")), who="first")
    store.record(first)
    store.objects.delete(blob_key(first.blobs[0].sha256))
    assert store.look_up("artifact", KEY) is None
    with pytest.raises(BlobMissing, match=r"w: blob .* is not in"):
        store.fetch(first.blobs, tmp_path / "c")
    second = result(store.add_folder(fill(tmp_path / "b", w="2")), who="second")
    assert store.record(second) == second
    assert store.look_up("artifact", KEY) == second


def test_a_damaged_blob_is_not_handed_out(store: Store, tmp_path: Path) -> None:
    entries = store.add_folder(fill(tmp_path / "a", w="12345"))
    store.objects.replace(blob_key(entries[0].sha256), b"12346")
    with pytest.raises(VerificationError, match=r"w: .*; dropped"):
        store.fetch(entries, tmp_path / "b")
    assert not store.has_blob(entries[0]), "the next run makes it again"
    assert store.add_folder(fill(tmp_path / "c", w="12345")) == entries
    store.fetch(entries, tmp_path / "d")


def test_results_expire_and_damaged_ones_do_not_count(place: str) -> None:
    store = open_store(place, stage_days=1)
    old = result(()).model_copy(update={"made_at": time.time() - 86401})
    store.record(old)
    assert store.look_up("artifact", KEY) is None
    assert store.record(result((), who="new")).value == {"who": "new"}
    store.objects.replace(f"stages/artifact/{KEY}.json", b"{")
    assert store.look_up("artifact", KEY) is None


def test_a_commit_needs_every_file_and_happens_once(store: Store, tmp_path: Path) -> None:
    entries = store.add_folder(fill(tmp_path / "a", w="1"))
    made = manifest(entries)
    assert store.commit(made, version(made))
    assert not store.commit(made, version(made, made_at=2.0)), "the same version is there already"
    assert [held.provenance.made_at for held in store.versions("m", "v")] == [1.0]
    assert store.manifest(made.digest) == made
    assert store.models() == {"m": ["v"]}
    lost = FileEntry(path="x", size_bytes=1, sha256="ef" * 32)
    bad = manifest((lost,))
    with pytest.raises(BlobMissing, match=r"x: blob .* is not in"):
        store.commit(bad, version(bad))
    with pytest.raises(NotFound):
        store.manifest(bad.digest)


def test_a_changed_manifest_is_noticed(store: Store, tmp_path: Path) -> None:
    made = manifest(store.add_folder(fill(tmp_path / "a", w="1")))
    store.commit(made, version(made))
    key = f"manifests/sha256/{made.digest}.json"
    held = store.objects.read(key)
    assert held is not None
    store.objects.replace(key, held.data.replace(b'"hardware":""', b'"hardware":"x"'))
    with pytest.raises(VerificationError, match=made.digest):
        store.manifest(made.digest)
    store.commit(made, version(made, variant="other"))
    assert store.manifest(made.digest) == made, "a commit mends it"


def test_damaged_bytes_are_not_published(store: Store, tmp_path: Path) -> None:
    entries = store.add_folder(fill(tmp_path / "a", w="12345"))
    store.objects.replace(blob_key(entries[0].sha256), b"12346")
    made = manifest(entries)
    with pytest.raises(VerificationError, match="w: "):
        store.commit(made, version(made))
    assert store.models() == {}


def test_a_folder_that_a_kill_left_empty_is_no_model(folder_store: Store) -> None:
    (Path(folder_store.uri) / "models" / "m" / "killed-before-its-first-version" / "versions").mkdir(parents=True)
    assert folder_store.models() == {}


@pytest.mark.parametrize("name", ["..", "a/b", "/abs", "a\\b", "", "con"])
def test_names_cannot_climb(store: Store, name: str) -> None:
    with pytest.raises((StoreError, ValueError)):
        store.versions(name, "v")


def test_sixteen_writers_of_one_key_agree(store: Store, tmp_path: Path) -> None:
    made = [result(store.add_folder(fill(tmp_path / str(n), w=str(n))), who=n) for n in range(16)]
    winners: list[StageResult] = []
    start = threading.Barrier(16)

    def write(mine: StageResult) -> None:
        start.wait()
        winners.append(store.record(mine))

    threads = [threading.Thread(target=write, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({winner.value["who"] for winner in winners}) == 1
    leftovers = [path for path in Path(store.uri).rglob(".*") if path.is_file()]
    assert not leftovers
