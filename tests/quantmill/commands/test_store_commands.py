"""The commands of publishers and consumers; an error is one line that says what exists."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantmill.cli import app
from quantmill.errors import NotFound, QuantmillError, RequestError
from quantmill.files import keys
from quantmill.records.manifest import Manifest
from quantmill.signing import key_pairs, signing
from quantmill.signing.signer import PAYLOAD_TYPE
from quantmill.store import channels
from quantmill.store.store import Store
from tests.published import publish, store_in
from tests.samples import version

WORDS = ["list", "show", "channels", "promote", "rollback", "revoke", "pull", "verify", "watch"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("QUANTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUANTMILL_STORE", str(tmp_path / "store"))
    return store_in(tmp_path)


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[Manifest]:
    """Two versions of one variant, and one of another."""
    made = [publish(store, tmp_path / "made", seed=seed) for seed in (1, 2)]
    return [*made, publish(store, tmp_path / "made", "gptq-4bit-g64", 3)]


def run(*words: object) -> Any:
    """Return the JSON that a command answers, or raise what it raised."""
    done = CliRunner().invoke(app, [*map(str, words), "--json", "-"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def promote(*what: object) -> Any:
    return run("promote", "m", *what, "--channel", "stable", "--reason", "a test")["channels"][0]


def test_a_channel_s_life(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    old, new, other = (made.digest for made in versions)
    assert promote(f"gguf-q8_0@{old[:8]}")["moves"][-1]["variants"] == {"gguf-q8_0": old}
    assert promote("gguf-q8_0", "gptq-4bit-g64")["moves"][-1]["variants"] == {"gguf-q8_0": new, "gptq-4bit-g64": other}
    assert run("pull", "m", "--channel", "stable", "--variant", "gguf-q8_0", "--to", tmp_path / "to")["seq"] == 2
    back = run("rollback", "m", "--channel", "stable", "--reason", "slow")["channels"][0]
    assert (back["moves"][-1]["seq"], back["moves"][-1]["variants"]) == (3, {"gguf-q8_0": old})
    run("rollback", "m", "--channel", "stable", "--to", 2, "--reason", "no, fine")
    said = run("pull", "m", "--channel", "stable", "--variant", "gguf-q8_0", "--to", tmp_path / "to")
    assert (said["manifest"], said["seq"], said["changed"]) == (new, 4, False)
    held = run("channels", "m")["channels"]
    assert [move["reason"] for move in held[0]["moves"]] == ["a test", "a test", "slow", "no, fine"]
    shown = run("show", "m")
    assert {row["name"]: row["channels"] for row in shown["variants"]} == {
        "gguf-q8_0": ["stable"],
        "gptq-4bit-g64": ["stable"],
    }


def test_revoking_twice_withdraws_one(store: Store, versions: list[Manifest]) -> None:
    old, new, _ = (made.digest for made in versions)
    promote(f"gguf-q8_0@{old}")
    promote("gguf-q8_0")
    for _ in range(2):
        run("revoke", "m", "gguf-q8_0", "--reason", "rambles")
    assert run("channels", "m")["channels"][0]["moves"][-1]["variants"] == {"gguf-q8_0": old}
    shown = run("show", "m")
    assert [(row["manifest"], row["revoked"]) for row in shown["variants"] if row["name"] == "gguf-q8_0"] == [
        (new, "rambles")
    ]
    assert [(row["manifest"], row["channels"], row["revoked"]) for row in shown["older"]] == [(old, ["stable"], None)]
    with pytest.raises(NotFound, match="was revoked: rambles"):
        promote(f"gguf-q8_0@{new}")
    assert promote("gguf-q8_0")["moves"][-1]["variants"] == {"gguf-q8_0": old}, "the newest that stands"


def test_who_signed_is_shown(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    pair = key_pairs.create(tmp_path / "keys", "release")
    of = version(versions[2], variant="gptq-4bit-g64")
    store.commit(versions[2], of, signing.sign(versions[2], of.provenance, pair.private))
    assert {row["name"]: row["signed_by"] for row in run("show", "m")["variants"]} == {
        "gguf-q8_0": None,
        "gptq-4bit-g64": pair.keyid,
    }
    ring = ("--keyring", pair.public.parent)
    said = run("pull", "m", "--variant", "gptq-4bit-g64", "--to", tmp_path / "to", *ring)
    assert said["signed_by"] == pair.keyid
    assert run("verify", tmp_path / "to", *ring)["signed_by"] == pair.keyid
    assert run("verify", tmp_path / "to")["signed_by"] is None
    out = CliRunner().invoke(app, ["verify", str(tmp_path / "to")]).output
    assert "not checked: no keyring" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["show", "n"], "n: not in .*; it holds m"),
        (["channels", "n"], "n: not in .*; it holds m"),
        (["promote", "m", "x", "--channel", "c", "--reason", "r"], "m: no variant 'x'; there is gguf-q8_0, gptq-4bit-g64$"),
        (["promote", "m", "gguf-q8_0@xyz", "--channel", "c", "--reason", "r"], "after @ comes the digest of a manifest"),
        (["promote", "m", "gguf-q8_0@000000", "--channel", "c", "--reason", "r"], "0 versions begin with 000000; known are "),
        (["promote", "m", "gguf-q8_0", "--channel", "Not So", "--reason", "r"], "channel: 'Not So': lower case"),
        (["promote", "m", "gguf-q8_0", "gguf-q8_0", "--channel", "c", "--reason", "r"], "gguf-q8_0 is named twice"),
        (["rollback", "m", "--channel", "c", "--reason", "r"], "m/c: no move 0 to go back to; known: none"),
        (["pull", "m", "--to", "x", "--where", "colour=red"], "--where: colour: no such field; fields: name, method"),
        (["pull", "m", "--to", "x", "--where", "size<1kB", "--where", "bits=8"], r"no variant meets size<1kB, bits=8; "),
        (["verify", "no-such-folder"], "no-such-folder: must be a folder"),
        (["watch", "m", "--channel", "c", "--to", "x", "--every", "soon"], "--every: 'soon': must be a time such as 30s, 5m or 1h"),
    ],
)  # fmt: skip
def test_errors(store: Store, versions: list[Manifest], words: list[str], error: str) -> None:
    with pytest.raises(RequestError, match=error) as raised:
        done = CliRunner().invoke(app, words)
        if done.exception:
            raise done.exception
    assert isinstance(raised.value, QuantmillError)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("word", WORDS)
def test_help_has_an_example(word: str) -> None:
    told = " ".join(CliRunner().invoke(app, [word, "--help"], env={"COLUMNS": "200"}).output.split())
    assert f"quantmill {word}" in told
    assert "Example" in told


def test_what_a_store_says_steers_no_terminal(store: Store, versions: list[Manifest]) -> None:
    """Anybody who may write to a store writes reasons and key names: they are shown as one plain line."""
    hostile, newest = "\x1b]0;owned\x07\x1b[31mred [/nothing] \u202e\nsecond line", versions[1]
    channels.promote(store, "m", "stable", {"gguf-q8_0": newest.digest}, hostile)
    envelope = {"payload": "", "payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": "[/]\x1b[31m", "sig": ""}]}
    store.objects.create(f"attestations/{newest.digest}.dsse.json", keys.canonical(envelope))
    for word in ("channels", "show"):
        done = CliRunner().invoke(app, [word, "m"])
        assert done.exit_code == 0, done.exception
        assert not [sign for sign in "\x1b\x07\u202e" if sign in done.stdout]
    channels.withdraw(store, "m", "gguf-q8_0", newest.digest, hostile)
    ended = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", "export", "m", f"gguf-q8_0@{newest.digest}", "nowhere"],
        cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "second line" in ended.stderr
    assert not [sign for sign in "\x1b\x07\u202e" if sign in ended.stderr]


def test_tables(store: Store, versions: list[Manifest]) -> None:
    promote("gguf-q8_0")
    for words in (["list"], ["show", "m"], ["channels", "m"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "gguf-q8_0" in done.output
