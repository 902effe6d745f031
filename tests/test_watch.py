"""A long-running consumer: a change is pulled and told, a store that is away is survived, SIGTERM ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantmill.client import verify
from quantmill.errors import NotFound, QuantmillError, RequestError, VerificationError
from quantmill.manifest import Manifest
from quantmill.pulled import Place
from quantmill.store.store import Store
from quantmill.watch import Watch, pause_s
from tests.published import publish, stable, store_in

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_in(tmp_path)


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[Manifest]:
    return [publish(store, tmp_path / "made", seed=seed) for seed in (1, 2)]


def script(tmp_path: Path, text: str) -> str:
    """Return the path of a command; it appends what it was told to `told`."""
    path = tmp_path / "tell"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def told(tmp_path: Path) -> list[str]:
    path = tmp_path / "told"
    return [Path(line).name for line in path.read_text().split()] if path.exists() else []


def test_each_version_is_told_once(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    said: list[str] = []
    command = script(tmp_path, f'cat "$QUANTMILL_PULLED/config.json" && echo "$QUANTMILL_PULLED" >> {tmp_path}/told')

    def watch() -> Watch:
        return Watch(store, "m", "stable", tmp_path / "to", command=command, say=said.append)

    with pytest.raises(NotFound, match="no channel 'stable'"):
        watch().round()
    for made in versions:
        stable(store, made)
        watch().round()
        watch().round()  # as after a restart
        assert verify(tmp_path / "to") == made
    assert told(tmp_path) == [made.digest for made in versions]
    first, second = (f"gguf-q8_0@{made.digest[:12]}" for made in versions)
    assert [line.split()[0] for line in said] == [first, "called", second, "called"]


def test_a_command_that_fails_is_called_until_it_ends_well(
    store: Store, versions: list[Manifest], tmp_path: Path
) -> None:
    command = script(tmp_path, f'echo "$QUANTMILL_PULLED" >> {tmp_path}/told; test -e {tmp_path}/up')
    watch = Watch(store, "m", "stable", tmp_path / "to", command=command, say=lambda _: None)
    stable(store, versions[0])
    for _ in range(2):
        with pytest.raises(QuantmillError, match=r"--run: .*tell: ended with 1; called again in the next round"):
            watch.round()
    (tmp_path / "up").touch()
    watch.round()
    watch.round()
    assert told(tmp_path) == [versions[0].digest] * 3
    with pytest.raises(FileNotFoundError):
        Watch(store, "m", "stable", tmp_path / "other", command="no-such-command").round()
    assert Place(tmp_path / "other").current == versions[0].digest


def test_what_is_refused_leaves_what_is_served(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    watch = Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None)
    stable(store, versions[0])
    watch.round()
    stable(store, versions[1])
    manifest = Path(store.uri) / "manifests" / "sha256" / f"{versions[1].digest}.json"
    good = manifest.read_bytes()
    manifest.write_bytes(good.replace(b"README", b"REEDME"))
    with pytest.raises(VerificationError):
        watch.round()
    assert verify(tmp_path / "to") == versions[0]
    manifest.write_bytes(good)
    watch.round()
    assert verify(tmp_path / "to") == versions[1]


def test_it_waits_longer_while_it_fails() -> None:
    assert [pause_s(30, failures) for failures in (0, 1, 2, 3, 5, 6, 10**6)] == [30, 30, 60, 120, 480, 480, 480]


@pytest.mark.parametrize(("given", "words"), [({"where": "size<x"}, "--where"), ({"command": "echo '"}, "--run: ")])
def test_a_wrong_request_is_refused_at_once(store: Store, tmp_path: Path, given: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Watch(store, "m", "stable", tmp_path / "to", **given)  # type: ignore[arg-type]


@pytest.fixture
def running(store: Store, tmp_path: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(
    running: list["subprocess.Popen[str]"], tmp_path: Path, store: Store, command: str
) -> "subprocess.Popen[str]":
    words = ["watch", "m", "--channel", "stable", "--to", str(tmp_path / "to"), "--every", "0.1s", "--store", store.uri]
    process = subprocess.Popen(
        [sys.executable, "-m", "quantmill.cli", *words, "--run", command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=(tmp_path / "log").open("w"),
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script starts it in its background
    )
    running.append(process)
    return process


def wait_for(what: str, tmp_path: Path) -> str:
    """Return the log as soon as it holds `what`."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (log := (tmp_path / "log")).exists() and what in log.read_text():
            return log.read_text()
        time.sleep(0.02)
    raise TimeoutError(f"{what!r} not in {log.read_text()!r}")


def test_the_process(
    store: Store, versions: list[Manifest], tmp_path: Path, running: list["subprocess.Popen[str]"]
) -> None:
    command = script(tmp_path, f'echo "$QUANTMILL_PULLED" >> {tmp_path}/told')
    process = start(running, tmp_path, store, command)
    wait_for("NotFound: m: no channel 'stable'", tmp_path)
    stable(store, versions[0])
    wait_for(f"@{versions[0].digest[:12]}", tmp_path)
    away = Path(store.uri).rename(tmp_path / "away")
    wait_for(f"no channel 'stable' in {store.uri}", tmp_path)
    away.rename(store.uri)
    stable(store, versions[1])
    wait_for(f"@{versions[1].digest[:12]} (sequence 2", tmp_path)
    deadline = time.monotonic() + 10
    while len(told(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert told(tmp_path) == [made.digest for made in versions]
    log = (tmp_path / "log").read_text().splitlines()
    assert log[-1].endswith("Z stopped")
    assert all(line[4] == "-" and line[19] == "Z" for line in log), "a line begins with its time"


def test_its_command_ends_with_it(
    store: Store, versions: list[Manifest], tmp_path: Path, running: list["subprocess.Popen[str]"]
) -> None:
    stable(store, versions[0])
    command = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    process = start(running, tmp_path, store, command)
    deadline = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert Place(tmp_path / "to").state().told == "", "it is called again after the next start"
