"""The store's rows of the table of faults in docs/reliability.md.

Nothing acknowledged is lost, no reader sees a part, a rerun completes.
"""

import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import boundaries, chaos_publish
from quantmill.errors import QuantmillError, StoreError, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import StageResult
from quantmill.s3 import client as s3_client
from quantmill.store import channels
from quantmill.store.collect import Rules, collect
from quantmill.store.layout import blob_key
from quantmill.store.places import open_store
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store
from tests.proxy import Fault, Proxy, proxy
from tests.s3_server import S3Server
from tests.samples import manifest, version

ROOT = Path(__file__).resolve().parents[3]
CYCLES = os.environ.get("CYCLES", "")
PART = 8 << 20


def artifact(folder: Path, name: str = "w", data: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def between(s3: str, s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy on the way to the store, for the place that `s3` names."""
    with proxy(s3_session.endpoint) as lent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", lent.endpoint)
        yield lent


def bucket(place: str) -> S3Objects:
    return S3Objects("bucket", place.removeprefix("s3://bucket/"), single_bytes=1 << 20)


def test_fault_01_publishers_are_killed_at_every_boundary(place: str, tmp_path: Path) -> None:
    kills = 12 if "://" in place else 40
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.chaos_publish", "--readers", "1", "--kills", str(kills)),
            *("--place", "s3" if "://" in place else "folder"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f'"kills": {kills}' in ended.stdout or f'"kills": {kills + 1}' in ended.stdout
    assert '"lost": 0' in ended.stdout


FULL = """
import shutil, sys
from pathlib import Path
from quantmill.errors import DiskFull
from quantmill.store.places import open_store
from tests.samples import manifest, version
place, source, big = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[1]) / "ballast"
big.write_bytes(b"x" * int(sys.argv[3]))
store = open_store(place / "store")
try:
    store.add_folder(source)
    print("stored")
except DiskFull as error:
    print(type(error).__name__, str(error).partition(" (")[0], " bytes free now)" in str(error))
kept = {"reserve"}  # for a collection
left = [path.name for path in (place / "store").rglob("*") if path.is_file() and "leases" not in path.parts]
print(sorted(set(left) - kept))
big.unlink()
made = manifest(store.add_folder(source))
print(store.commit(made, version(made)))
store.fetch(made.files, place / "out")
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-m", "true"]).returncode != 0, reason="mounts need rights")
def test_fault_04_a_full_disk_leaves_nothing_and_a_rerun_completes(tmp_path: Path) -> None:
    source, small = artifact(tmp_path / "a", data=b"w" * 1_500_000), tmp_path / "small"
    small.mkdir()
    script = f'mount -t tmpfs -o size=4m tmpfs "$1" && exec {sys.executable} -c "$0" "$1" "$2" 3000000'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, FULL, str(small), str(source)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout.splitlines() == [f"DiskFull {small}/store: the disk ran full True", "[]", "True"], ended.stderr


def test_fault_05_503_twice_is_tried_again_and_for_ever_ends_in_time(
    s3: str, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    between.faults = [Fault(b"PUT /bucket/", "503", count=2)]
    assert bucket(s3).create("models/a", b"1")
    assert [line.split()[0] for line in between.requests] == ["PUT"] * 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    between.faults, between.requests[:] = [Fault(b"PUT /bucket/", "503", count=10**6)], []
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"models/b: the store answered SlowDown; the same command goes on"):
        bucket(s3).create("models/b", b"1")
    assert len(between.requests) == 3
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("action", ["reset", "stall", "cut"])
def test_fault_06_a_broken_connection_resumes(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(s3_client, "_SILENCE_S", 2)  # in place of 30
    data = os.urandom(2 * PART + 12345)
    entry = FileEntry(path="w", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    between.faults = [Fault(b"partNumber=2", action, after=10)]
    bucket(s3).add_file("blobs/w", artifact(tmp_path / "a", data=data) / "w", entry.sha256)
    parts = Counter(line.partition("partNumber=")[2].split()[0] for line in between.requests if "partNumber" in line)
    assert parts["1"] == parts["3"] == 1 < parts["2"], "one part is sent again"
    between.faults, between.sent_back = [Fault(f"bytes={PART}-".encode(), action, after=3_000_000)], 0
    bucket(s3).fetch_file("blobs/w", entry, tmp_path / "b" / "w")
    assert (tmp_path / "b" / "w").read_bytes() == data
    assert between.sent_back < len(data) + 1_100_000, "no more than what was on the way is sent again"
    between.faults = [Fault(b"GET /bucket/", action, after=300)]
    assert bucket(s3).read("blobs/w") is not None


def test_fault_07_a_lost_answer_is_no_failure_and_no_second_version(s3: str, between: Proxy, tmp_path: Path) -> None:
    store = Store(bucket(s3))
    made = manifest(store.add_folder(artifact(tmp_path / "a", data=os.urandom(PART + 5))))
    between.faults = [Fault(b"/versions/", "lose")]
    assert store.commit(made, version(made)), "412 with our own bytes is success"
    assert not store.commit(made, version(made)), "412 without a lost answer is not"
    assert [held.manifest for held in store.versions("m", "v")] == [made.digest]
    between.faults = [Fault(b"PUT /bucket/" + s3.removeprefix("s3://bucket/").encode() + b"/models/m/channels", "lose")]
    assert channels.promote(store, "m", "stable", {"v": made.digest}, "once").seq == 1
    channel = channels.read_channel(store, "m", "stable")
    assert channel is not None and channel.seq == 1
    held = store.objects.read("models/m/channels/stable.json")
    assert held is not None
    between.faults = [Fault(b"PUT /bucket/", "lose")]
    assert store.objects.swap("models/m/channels/stable.json", b"2", held.tag)
    data = os.urandom(PART + 7)
    between.faults = [Fault(b"POST /bucket/" + s3.removeprefix("s3://bucket/").encode() + b"/blobs/w?uploadId", "lose")]
    digest = hashlib.sha256(data).hexdigest()
    store.objects.add_file("blobs/w", artifact(tmp_path / "b", data=data) / "w", digest)
    assert store.objects.intact("blobs/w", FileEntry(path="w", size_bytes=len(data), sha256=digest))
    assert [fault.seen for fault in between.faults] == [1]


def test_fault_08_a_wrong_checksum_of_a_part_is_surfaced_and_nothing_is_published(s3: str, tmp_path: Path) -> None:
    client = s3_client.connect()
    held = S3Objects("bucket", s3.removeprefix("s3://bucket/"), client, single_bytes=1 << 20)

    def damage(params: dict[str, object], **_: object) -> None:
        if params["PartNumber"] == 2:
            params["ChecksumSHA256"] = base64.b64encode(b"x" * 32).decode()

    client.meta.events.register("provide-client-params.s3.UploadPart", damage)
    with pytest.raises(VerificationError, match=r"received other bytes than were sent \(BadDigest\)"):
        Store(held).add_folder(artifact(tmp_path / "a", data=os.urandom(2 * PART)))
    assert not list(held.under("blobs/"))
    files = Store(bucket(s3)).add_folder(tmp_path / "a")
    Store(bucket(s3)).fetch(files, tmp_path / "b")


def test_fault_09_a_server_that_is_killed_under_load_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, acknowledged, failed = S3Server(tmp_path / "s3"), list[str](), list[str]()
    server.start()
    for name, value in (server.environment | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="bucket")
    store = open_store("s3://bucket/store")

    def publish(worker: int) -> None:
        try:
            for number in range(10**6):
                made = manifest(store.add_folder(artifact(tmp_path / f"{worker}-{number}", data=os.urandom(200_000))))
                store.commit(made, version(made))
                acknowledged.append(made.digest)
        except QuantmillError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 10:
        time.sleep(0.01)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(failed) == 3
    assert all("s3://bucket/store" in line and "\n" not in line for line in failed), failed
    server.start()
    try:
        again = open_store("s3://bucket/store")
        held = {one.manifest for one in again.versions("m", "v")}
        assert set(acknowledged) <= held
        for digest in held:
            again.fetch(again.manifest(digest).files, tmp_path / "out")
    finally:
        server.kill()


def test_fault_12_twenty_workers_on_one_key_make_one_version(place: str, tmp_path: Path) -> None:
    store, start = open_store(place), threading.Barrier(20)
    fresh: list[bool] = []

    def trigger(number: int) -> None:
        files = store.add_folder(artifact(tmp_path / str(number), data=str(number % 2).encode()))
        start.wait()
        mine = StageResult(stage="artifact", key="cd" * 32, blobs=files, value={"who": number}, made_at=time.time())
        adopted = store.record(mine)
        made = manifest(adopted.blobs)
        fresh.append(store.commit(made, version(made, made_at=number)))

    threads = [threading.Thread(target=trigger, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == [False] * 19 + [True]
    assert len(store.versions("m", "v")) == 1


def test_fault_14_collection_during_publish_and_dedup_hits_loses_no_blob(place: str, tmp_path: Path) -> None:
    store, stop = open_store(place), threading.Event()
    rules, trouble, removed = Rules(grace_s=0, newest=10**6), list[str](), 0

    def sweep() -> None:
        nonlocal removed
        mine = open_store(place)
        while not stop.is_set():
            try:
                removed += len(collect(mine, rules))
            except QuantmillError as error:
                trouble.append(str(error))

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for cycle in range(int(CYCLES or (20 if "://" in place else 60))):
            folder = artifact(tmp_path / "a", data=str(cycle).encode())
            abandoned = store.add_folder(folder)
            store.leases.release(entry.sha256 for entry in abandoned)  # as if its publisher had died long ago
            time.sleep(0.02 * (cycle % 4))
            deadline = time.monotonic() + 120
            while cycle % 4 == 3 and all(map(store.has_blob, abandoned)) and time.monotonic() < deadline:
                time.sleep(0.02)  # every fourth time a sweep comes first, however slow this machine is
            files = store.add_folder(folder)  # a dedup hit, or gone already, or going
            assert all(store.has_blob(entry) for entry in files), cycle
            made = manifest(files)
            assert store.commit(made, version(made))
            (tmp_path / "a" / "w").unlink()
    finally:
        stop.set()
        sweeper.join()
    assert not trouble
    assert removed > 0, "the sweeps did meet what was abandoned"
    for held in store.versions("m", "v"):
        assert all(store.has_blob(entry) for entry in store.manifest(held.manifest).files)


def test_fault_16_a_corrupt_download_is_fetched_once_more_and_then_refused(
    s3: str, between: Proxy, tmp_path: Path
) -> None:
    data = os.urandom(PART + 5)
    store = Store(bucket(s3))
    files = store.add_folder(artifact(tmp_path / "a", data=data))
    between.faults = [Fault(b"Range: bytes=0-", "flip", after=5_000_000)]
    store.fetch(files, tmp_path / "b")
    assert (tmp_path / "b" / "w").read_bytes() == data
    between.faults = [Fault(b"Range: bytes=0-", "flip", after=5_000_000, count=2)]
    with pytest.raises(VerificationError, match=r"w: the bytes in s3://.* are not those of .*; fetched twice"):
        store.fetch(files, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir()), "nothing of it is left"
    store.fetch(files, tmp_path / "d")
    assert store.has_blob(files[0]), "the blob itself was never wrong"
    assert blob_key(files[0].sha256) in {held.key for held in store.objects.under("blobs/")}


def test_the_chaos_counts_what_is_lost(tmp_path: Path) -> None:
    store = boundaries.open_place(str(tmp_path / "store"))
    made = manifest(store.add_folder(artifact(tmp_path / "a")))
    store.commit(made, version(made))
    chaos_publish.note(tmp_path / "acknowledged", f'["v", "{made.digest}"]')
    assert chaos_publish.judge(store, tmp_path)["lost"] == 0
    store.objects.delete(blob_key(made.files[0].sha256))
    chaos_publish.note(tmp_path / "acknowledged", f'["v", "{"ab" * 32}"]')
    assert chaos_publish.judge(store, tmp_path)["lost"] == 2
