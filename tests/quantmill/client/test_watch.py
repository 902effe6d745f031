"""A long-running consumer pulls and reports changes, survives a store that is away, ends on SIGTERM."""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantmill.client.client import verify
from quantmill.client.pulled import Place
from quantmill.client.watch import Watch, pause_s
from quantmill.commands import store as store_commands
from quantmill.errors import NotFound, QuantmillError, RequestError, VerificationError
from quantmill.machine import command
from quantmill.records.manifest import Manifest
from quantmill.store import channels
from quantmill.store.store import Store
from tests.published import describe, folder, publish, stable, store_in
from tests.samples import version

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_its_command_ends_with_it_and_so_do_its_children(
    number: int, store: Store, versions: list[Manifest], tmp_path: Path, running: list["subprocess.Popen[str]"]
) -> None:
    stable(store, versions[0])
    command = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    process = start(running, tmp_path, store, command)
    deadline = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert Place(tmp_path / "to").state().told == "", "it is called again after the next start"


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; one that nobody waits for may be a zombie for a moment."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_a_command_that_hangs_is_ended_and_called_again(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    stable(store, versions[0])
    command = script(tmp_path, f"test -e {tmp_path}/up && exit 0; sleep 60 & echo $! > {tmp_path}/pid; wait")
    watch = Watch(store, "m", "stable", tmp_path / "to", command=command, limit_s=0.5, say=lambda _: None)
    with pytest.raises(QuantmillError, match=r"--run: .*tell: took longer than 0\.5 s and was ended; called again"):
        watch.round()
    assert is_gone(int((tmp_path / "pid").read_text())), "its children too"
    assert Place(tmp_path / "to").state().told == ""
    (tmp_path / "up").touch()
    watch.round()
    assert Place(tmp_path / "to").state().told == versions[0].digest


def test_a_command_that_does_not_heed_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_GRACE_S", 0.3)
    stubborn = script(tmp_path, "trap '' TERM; while true; do sleep 0.1; done")
    with pytest.raises(QuantmillError, match=r"took longer than 0\.3 s"):
        command.call([stubborn], {}, 0.3, "--run")


def test_another_format_is_refused_unless_it_may_change(store: Store, tmp_path: Path) -> None:
    first, other = (publish(store, tmp_path / "made", variant) for variant in ("gguf-q8_0", "gptq-4bit-g64"))
    stable(store, first)
    Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None).round()
    channels.promote(store, "m", "stable", {"gptq-4bit-g64": other.digest}, "a test")
    revoke(store, first)
    with pytest.raises(
        RequestError, match=r"its format is safetensors, the current format is gguf; --any-format lets it change"
    ):
        Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None).round()
    assert Place(tmp_path / "to").current == first.digest
    Watch(store, "m", "stable", tmp_path / "to", any_format=True, say=lambda _: None).round()
    assert Place(tmp_path / "to").current == other.digest


def revoke(store: Store, made: Manifest) -> None:
    store_commands.revoke("m", f"{made.name.partition('/')[2]}@{made.digest}", "rambles", store.uri, None)


def test_a_revoked_version_that_is_served_is_said_in_every_round(
    store: Store, versions: list[Manifest], tmp_path: Path
) -> None:
    said: list[str] = []
    command = script(tmp_path, f'echo "$QUANTMILL_PULLED" >> {tmp_path}/told; test -e {tmp_path}/up')
    watch = Watch(store, "m", "stable", tmp_path / "to", variant="gguf-q8_0", run_revoked=command, say=said.append)
    stable(store, versions[0])
    watch.round()
    revoke(store, versions[0])
    with pytest.raises(QuantmillError, match=r"--run-revoked: .*tell: ended with 1; called again in the next round"):
        watch.round()
    (tmp_path / "up").touch()
    for _ in range(2):
        with pytest.raises(NotFound, match="no variant 'gguf-q8_0' in channel 'stable'"):
            watch.round()
    assert len([line for line in said if line.endswith(f"@{versions[0].digest[:12]} is still served: rambles")]) == 3
    assert told(tmp_path) == [versions[0].digest] * 2, "until it ended well"
    stable(store, versions[1])
    watch.round()
    assert Place(tmp_path / "to").current == versions[1].digest


def gguf(store: Store, tmp_path: Path, *names: str) -> Manifest:
    place = folder(tmp_path / "gguf" / "-".join(names), 7)
    for path in place.glob("*.safetensors"):
        path.unlink()
    for name in names:
        (place / name).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))  # no tensor, no metadata
    made = describe(store.add_folder(place), "gguf-q8_0")
    store.commit(made, version(made, variant="gguf-q8_0"))
    return made


def test_model_gguf_keeps_its_name_and_never_dangles(store: Store, tmp_path: Path) -> None:
    link = tmp_path / "to" / "model.gguf"
    watch = Watch(store, "m", "stable", tmp_path / "to", say=lambda _: None)
    made = [gguf(store, tmp_path, name) for name in ("model-Q8_0.gguf", "model-Q4_K_M.gguf", "model-Q2_K.gguf")]
    for each in made:
        stable(store, each)
        watch.round()
        assert link.read_bytes().startswith(b"GGUF")
        assert link.resolve().parent == (tmp_path / "to" / "current").resolve()
        assert verify(tmp_path / "to") == each
    link.unlink()  # a folder that an older release pulled into
    watch.round()
    assert link.resolve().name == "model-Q2_K.gguf"
    split = gguf(store, tmp_path, "model-00001-of-00002.gguf", "model-00002-of-00002.gguf")
    stable(store, split)
    watch.round()
    assert not os.path.lexists(link), "a server finds the parts by their names"
