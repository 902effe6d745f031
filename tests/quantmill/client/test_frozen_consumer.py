"""An old consumer, the wheel of commit f5273e7, serves itself from a store that today's code filled.

The old wheel forbids unknown fields.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quantmill.files import keys
from quantmill.records.manifest import Manifest, Provenance, Version
from quantmill.signing import key_pairs, signing
from quantmill.store import channels
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.published import describe, folder

WHEEL = Path(__file__).resolve().parents[2] / "frozen" / "quantmill-0.1.0-py3-none-any.whl"
V = "gguf-q8_0"
RECORDS: dict[str, dict[str, Any]] = {
    # Every kind that this code writes, with a value as it is written; a kind that comes belongs here.
    "example": {"figures": [1, 2.5, None], "digest": "ab" * 32, "words": "ü"},
}
_COMMANDS = """
import json, sys
from typer.testing import CliRunner
import quantmill
from quantmill.cli import app

answers = {"file": quantmill.__file__}
for name, words in json.loads(sys.argv[1]).items():
    ran = CliRunner().invoke(app, words)
    answers[name] = [ran.exit_code, json.loads(ran.stdout) if ran.exit_code == 0 else str(ran.exception)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked: what else it needs is installed here."""
    place = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(place)
    return place


@pytest.fixture
def pair(tmp_path: Path) -> key_pairs.KeyPair:
    return key_pairs.create(tmp_path / "keys", "release")


def environment(before: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMILL")}
    return kept | {"PYTHONPATH": str(before)}


def publish(store: Store, scratch: Path, seed: int, pair: key_pairs.KeyPair) -> Manifest:
    """Publish a signed version with side records of every kind, and make it current."""
    made = describe(store.add_folder(folder(scratch / str(seed), seed)), V)
    provenance = Provenance(manifest=made.digest, recipe={}, made_at=float(seed))
    version = Version(model="m", variant=V, manifest=made.digest, provenance=provenance)
    store.commit(made, version, signing.sign(made, provenance, pair.private))
    for kind, value in RECORDS.items():
        store.add_record("m", V, made.digest, kind, value)
    channels.promote(store, "m", "stable", {V: made.digest}, "a test")
    return made


def test_fault_31_the_wheel_of_before_lists_pulls_verifies_watches_and_collects(
    before: Path, place: str, pair: key_pairs.KeyPair, tmp_path: Path
) -> None:
    store = open_store(place)
    first = publish(store, tmp_path / "made", 1, pair)
    ring, to = str(pair.public.parent), tmp_path / "to"
    asked = {
        "list": ["list", "--store", place, "--json", "-"],
        "show": ["show", "m", "--store", place, "--json", "-"],
        "channels": ["channels", "m", "--store", place, "--json", "-"],
        "pull": [
            "pull",
            "m",
            "--channel",
            "stable",
            "--store",
            place,
            "--to",
            str(to),
            "--keyring",
            ring,
            "--json",
            "-",
        ],
        "verify": ["verify", str(to), "--keyring", ring, "--json", "-"],
        "gc": ["gc", "--dry-run", "--store", place, "--json", "-"],
    }
    command = [sys.executable, "-c", _COMMANDS, json.dumps(asked)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(before), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("file").startswith(str(before))
    assert {name: answer[0] for name, answer in said.items()} == dict.fromkeys(asked, 0), said
    assert said["list"][1]["models"][0]["variants"][0]["manifest"] == first.digest
    assert said["show"][1]["variants"][0]["channels"] == ["stable"]
    assert (said["pull"][1]["manifest"], said["pull"][1]["signed_by"]) == (first.digest, pair.keyid)
    assert said["verify"][1]["manifest"] == first.digest
    assert said["gc"][1]["removed"] == []
    assert keys.file_sha256(to / "current" / "config.json") == next(
        file.sha256 for file in first.files if file.path == "config.json"
    )
    watched(before, store, pair, tmp_path, first)
    assert len(store.records("m", V, first.digest)) == len(RECORDS)


def watched(before: Path, store: Store, pair: key_pairs.KeyPair, tmp_path: Path, first: Manifest) -> None:
    """Let the wheel of before follow the channel while it is moved."""
    to = tmp_path / "watched"
    words = ["watch", "m", "--channel", "stable", "--to", str(to), "--store", store.uri, "--every", "0.2s"]
    command = [sys.executable, "-m", "quantmill.cli", *words, "--keyring", str(pair.public.parent)]
    with (tmp_path / "watch.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(before), stderr=log)
        try:
            wait_for(to, first, tmp_path)
            wait_for(to, publish(store, tmp_path / "made", 2, pair), tmp_path)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def wait_for(to: Path, version: Manifest, tmp_path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (to / "current").is_symlink() or (to / "current").readlink().name != version.digest:
        assert time.monotonic() < deadline, (tmp_path / "watch.log").read_text()
        time.sleep(0.05)
