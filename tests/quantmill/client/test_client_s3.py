"""Consumers of a store in a bucket: the cases of `test_client.py` that could differ from a folder."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantmill.client.client import pull, resolve, verify
from quantmill.client.pulled import Place
from quantmill.client.watch import Watch
from quantmill.errors import StoreError, VerificationError
from quantmill.records.manifest import Manifest
from quantmill.store import channels
from quantmill.store.layout import blob_key
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.published import publish, stable
from tests.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def store(s3: str) -> Store:
    return open_store(s3)


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[Manifest]:
    return [publish(store, tmp_path / "made", seed=seed) for seed in (1, 2)]


def test_a_channel_of_a_bucket(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    moved: list[int] = []
    for made in versions:
        stable(store, made)
        chosen = resolve(store, "m", "stable", where="runtime=llama.cpp")
        moved.clear()
        pull(store, chosen, tmp_path / "to", on_bytes=moved.append)
        assert verify(tmp_path / "to") == made
        assert sum(moved) == chosen.size_bytes
    channels.withdraw(store, "m", "gguf-q8_0", versions[1].digest, "rambles")
    Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None).round()
    assert verify(tmp_path / "to") == versions[0]
    assert Place(tmp_path / "to").state().seen["stable"].seq == 3


def test_fault_15_a_byte_flipped_in_a_bucket(
    s3: str, s3_session: S3Server, store: Store, versions: list[Manifest], tmp_path: Path
) -> None:
    stable(store, versions[0])
    pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    stable(store, versions[1])
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    client = s3_session.client()
    (sha256,) = {file.sha256 for file in versions[1].files if file.path == WEIGHTS}
    for key, words in (
        (blob_key(sha256), WEIGHTS),
        (f"manifests/sha256/{versions[1].digest}.json", f"manifest {versions[1].digest}"),
    ):
        at = {"Bucket": bucket, "Key": f"{prefix}/{key}"}
        good = client.get_object(**at)["Body"].read()
        client.put_object(**at, Body=good[:99] + bytes([good[99] ^ 1]) + good[100:])
        with pytest.raises(VerificationError, match=words):
            pull(store, resolve(store, "m", "stable"), tmp_path / "to")
        assert verify(tmp_path / "to") == versions[0], "the old version keeps serving"
        client.put_object(**at, Body=good)
    pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    assert verify(tmp_path / "to") == versions[1]


@pytest.mark.slow
def test_fault_24_killed_while_it_fetches_from_a_bucket(s3: str, store: Store, tmp_path: Path) -> None:
    """Kills hit files of 20 MB: a finished file keeps its inode, and the current version stays right."""
    old = publish(store, tmp_path / "made", seed=1)
    pull(store, resolve(store, "m"), tmp_path / "to")
    new = publish(store, tmp_path / "made", seed=2, numbers=20_000_000)
    staged = Place(tmp_path / "to").staging(new.digest)
    code = f"from quantmill.cli import main; import sys; sys.argv = ['quantmill', 'pull', 'm', '--to', {str(tmp_path / 'to')!r}]; main()"
    finished: dict[str, int] = {}
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"QUANTMILL_STORE": s3, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while process.poll() is None and not list(staged.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        assert verify(tmp_path / "to") in (old, new)
        now = {path.name: path.stat().st_ino for path in staged.glob("[!.]*") if path.is_file()}
        assert finished.items() <= now.items() or not now, "finished files are not fetched again"
        finished = now
    pull(store, resolve(store, "m"), tmp_path / "to")
    assert verify(tmp_path / "to") == new
    assert not list((tmp_path / "to").rglob("*.part"))


def test_a_watch_of_a_bucket_that_does_not_answer(
    store: Store, versions: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable(store, versions[0])
    Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None).round()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError):
        Watch(open_store(store.uri), "m", "stable", tmp_path / "to", say=lambda _: None).round()
    assert verify(tmp_path / "to") == versions[0]
