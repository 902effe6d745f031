"""What only the bucket's store has: parts, ranges, resumption, one-line errors."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantmill.client.client import resolve
from quantmill.errors import QuantmillError, StoreError
from quantmill.files.entries import FileEntry
from quantmill.store import channels
from quantmill.store.cache import BlobCache
from quantmill.store.collect import Rules, find
from quantmill.store.places import open_store
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store
from tests.proxy import proxy
from tests.published import publish, stable
from tests.s3_server import S3Server

MB = 1 << 20


def objects(place: str) -> S3Objects:
    """A bucket's place in which small files go in parts too."""
    return S3Objects("bucket", place.removeprefix("s3://bucket/"), single_bytes=MB)


def long_file(folder: Path, megabytes: int = 20) -> tuple[Path, FileEntry]:
    folder.mkdir(exist_ok=True)
    path = folder / "w.safetensors"
    path.write_bytes(os.urandom(megabytes * MB + 12345))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, FileEntry(path=path.name, size_bytes=path.stat().st_size, sha256=digest)


def test_a_long_file_goes_in_parts_and_comes_in_ranges(s3: str, tmp_path: Path) -> None:
    path, entry = long_file(tmp_path / "a")
    moved: list[int] = []
    objects(s3).add_file("blobs/w", path, entry.sha256, moved.append)
    assert sum(moved) == entry.size_bytes
    assert objects(s3).intact("blobs/w", entry)
    moved.clear()
    objects(s3).fetch_file("blobs/w", entry, tmp_path / "b" / "w", moved.append)
    assert (tmp_path / "b" / "w").read_bytes() == path.read_bytes()
    assert (sum(moved), [held.name for held in (tmp_path / "b").iterdir()]) == (entry.size_bytes, ["w"])


def test_what_is_there_is_not_sent_again(
    s3: str, s3_session: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, entry = long_file(tmp_path / "a", 1)
    with proxy(s3_session.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        for _ in range(2):
            objects(s3).add_file("blobs/w", path, entry.sha256)
    assert [line.split()[0] for line in between.requests][-1] == "HEAD"
    assert sum(line.startswith("PUT") for line in between.requests) == 1, between.requests


def test_a_file_that_changes_while_it_is_sent_is_not_stored(s3: str, tmp_path: Path) -> None:
    path, entry = long_file(tmp_path / "a")
    path.write_bytes(b"!" + path.read_bytes()[1:])
    for held in (objects(s3), S3Objects("bucket", s3.removeprefix("s3://bucket/"))):
        with pytest.raises(QuantmillError, match=r"its bytes are not those of|received other bytes"):
            held.add_file("blobs/w", path, entry.sha256)
        assert held.size("blobs/w") is None
        assert not list(held.unfinished())


KILLED = """
import os, signal, sys
from pathlib import Path
from quantmill.files.entries import FileEntry
from quantmill.store.s3 import S3Objects
from quantmill.store.s3_parts import Parts
Parts.threads = 1
role, prefix, path, sha256, size = sys.argv[1:]
moved = 0
def count(more):
    global moved
    moved += more
    if moved >= 12 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
held = S3Objects("bucket", prefix, single_bytes=1 << 20)
if role == "send":
    held.add_file("blobs/w", Path(path), sha256, count)
else:
    held.fetch_file("blobs/w", FileEntry(path="w", size_bytes=int(size), sha256=sha256), Path(path), count)
"""


def kill_in_the_middle(role: str, place: str, path: Path, entry: FileEntry) -> None:
    prefix = place.removeprefix("s3://bucket/")
    ended = subprocess.run([sys.executable, "-c", KILLED, role, prefix, path, entry.sha256, str(entry.size_bytes)])
    assert ended.returncode == -signal.SIGKILL


def test_killed_transfers_go_on(s3: str, s3_session: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, entry = long_file(tmp_path / "a", 36)  # five parts
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    kill_in_the_middle("send", s3, path, entry)
    assert objects(s3).size("blobs/w") is None
    with proxy(s3_session.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        objects(s3).add_file("blobs/w", path, entry.sha256)
        sent = sum("partNumber" in line for line in between.requests)
        assert 1 <= sent <= 4, "what the killed one had sent is not sent again"
        assert not list(objects(s3).unfinished())
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_session.endpoint)
    kill_in_the_middle("fetch", s3, tmp_path / "b" / "w", entry)
    assert not (tmp_path / "b" / "w").exists()
    with proxy(s3_session.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        moved: list[int] = []
        objects(s3).fetch_file("blobs/w", entry, tmp_path / "b" / "w", moved.append)
        assert between.sent_back < entry.size_bytes - (7 << 20), "nor is what had arrived fetched again"
    assert (tmp_path / "b" / "w").read_bytes() == path.read_bytes()
    assert sum(moved) == entry.size_bytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the store refuses (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "the store refuses (InvalidAccessKeyId)"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
            "the store at 127.0.0.1:9 does not answer",
        ),
    ],
)
def test_errors_are_one_line_without_secrets(
    s3: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], words: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError) as raised:
        objects(s3).read("models/x")
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"{s3}")
    assert "\n" not in str(raised.value)
    assert not [name for name in ("wrong", "a-test-secret", "a-test-key", "unknown") if name in str(raised.value)]


def test_without_credentials_and_without_a_bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/x/models/m: no such bucket"):
        S3Objects("nowhere", "x").create("models/m", b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        objects(s3).read("models/x")


def test_a_listing_has_pages(s3: str) -> None:
    client = objects(s3)
    client._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 2}
    )
    for number in range(5):
        client.create(f"models/{number}", b"x" * number)
    assert [(held.key, held.size_bytes) for held in client.under("models/")] == [(f"models/{n}", n) for n in range(5)]
    assert abs(next(client.under("models/")).modified_at - time.time()) < 120


def test_what_a_console_leaves_in_a_bucket_is_passed_over(s3: str, tmp_path: Path) -> None:
    """Its folders are empty objects whose keys end with a slash; `pull` and `gc` once fell over them."""
    store = open_store(s3)
    made = publish(store, tmp_path / "made")
    stable(store, made)
    place = objects(s3)
    for folder in ("models/", "models/m/gguf-q8_0/versions/", "models/m/channels/", "blobs/", "leases/", "stages/"):
        place._client.put_object(Bucket=place._bucket, Key=f"{place._prefix}{folder}", Body=b"")
    place._client.put_object(Bucket=place._bucket, Key=f"{place._prefix}blobs/a: b", Body=b"")
    assert resolve(store, "m").digest == made.digest
    assert [channel.name for channel in channels.channels(store, "m")] == ["stable"]
    assert find(store, Rules(grace_s=-60)) == []


def test_blobs_that_moved_are_kept_on_this_disk_up_to_a_limit(s3: str, tmp_path: Path) -> None:
    def cached(limit: int) -> Store:
        return open_store(s3, cache=BlobCache(tmp_path / "cache", limit))

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w").write_bytes(b"x" * 1000)
    entries = cached(5000).add_folder(tmp_path / "a")
    kept = tmp_path / "cache" / "blobs" / "sha256" / entries[0].sha256[:2] / entries[0].sha256
    assert kept.stat().st_ino == (tmp_path / "a" / "w").stat().st_ino, "a link"
    cached(5000).objects.delete(f"blobs/sha256/{entries[0].sha256[:2]}/{entries[0].sha256}")
    cached(5000).fetch(entries, tmp_path / "b")
    kept.unlink()
    kept.write_bytes(b"y" * 1000)
    with pytest.raises(StoreError, match="is not in"):
        cached(5000).fetch(entries, tmp_path / "c")
    (tmp_path / "a" / "w").unlink()
    (tmp_path / "a" / "w").write_bytes(b"x" * 1000)
    (tmp_path / "a" / "more").write_bytes(b"z" * 4500)
    cached(5000).add_folder(tmp_path / "a")
    assert sum(held.stat().st_size for held in (tmp_path / "cache").rglob("*") if held.is_file()) <= 5000
