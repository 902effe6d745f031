"""The consumer's side: what is chosen, what is on the disk, and what is refused before the swap."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import quantmill.client.client
from quantmill.client.client import pull, resolve, verify
from quantmill.client.pulled import Place
from quantmill.errors import NotEnoughSpace, NotFound, RequestError, StoreError, VerificationError
from quantmill.files import keys
from quantmill.records.manifest import Manifest
from quantmill.signing import key_pairs, signing
from quantmill.signing.signing import Keyring
from quantmill.store import channels
from quantmill.store.store import Store
from tests.published import describe, folder, publish, stable, store_in
from tests.samples import version

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_in(tmp_path)


@pytest.fixture
def made(store: Store, tmp_path: Path) -> dict[str, Manifest]:
    """Three variants: the smallest memory, the best quality, the fastest."""
    return {
        "gguf-q4_k_m": publish(store, tmp_path / "made", "gguf-q4_k_m", 1, kl=0.06, memory=2 * 10**9, speed=60),
        "gguf-q8_0": publish(store, tmp_path / "made", "gguf-q8_0", 2, kl=0.005, memory=4 * 10**9, speed=50),
        "gptq-4bit-g64": publish(store, tmp_path / "made", "gptq-4bit-g64", 3, kl=0.001, memory=20 * 10**9, speed=90),
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> key_pairs.KeyPair:
    return key_pairs.create(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="module")
def keyring(pair: key_pairs.KeyPair) -> Keyring:
    return Keyring.load(pair.public.parent)


def attest(store: Store, manifest: Manifest, pair: key_pairs.KeyPair) -> bytes:
    of = version(manifest, variant=manifest.name.partition("/")[2])
    envelope = signing.sign(manifest, of.provenance, pair.private)
    store.commit(manifest, of, envelope)
    return envelope


def command(*arguments: object) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMILL")}
    done = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def flip(path: Path, at: int) -> None:
    """Change one bit of a file, whatever its mode says, and leave its times as they were."""
    state, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def blob(store: Store, manifest: Manifest, name: str) -> Path:
    (sha256,) = {file.sha256 for file in manifest.files if file.path == name}
    return Path(store.uri) / "blobs" / "sha256" / sha256[:2] / sha256


def test_what_consumers_may_rely_on() -> None:
    assert {"Resolved", "pull", "resolve", "verify"} <= set(quantmill.client.__all__)
    assert list(quantmill.client.Resolved.model_fields) == [
        "model", "variant", "digest", "manifest", "channel", "seq", "move", "data",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "variant"),
    [
        ({}, "gptq-4bit-g64"),
        ({"where": "memory<12GB,runtime=llama.cpp"}, "gguf-q8_0"),
        ({"where": "memory<12GB,runtime=llama.cpp", "best": "speed", "hardware": "a processor"}, "gguf-q4_k_m"),
        ({"where": "memory<3GB"}, "gguf-q4_k_m"),
        ({"variant": "gguf-q4_k_m"}, "gguf-q4_k_m"),
        ({"best": "speed", "hardware": "Processor"}, "gptq-4bit-g64"),
        ({"best": "speed", "variant": "gguf-q8_0"}, "gguf-q8_0"),
    ],
)
def test_the_best_that_fits(store: Store, made: dict[str, Manifest], asked: dict[str, Any], variant: str) -> None:
    chosen = resolve(store, "m", **asked)
    assert (chosen.variant, chosen.digest) == (variant, made[variant].digest)
    assert (chosen.channel, chosen.seq) == ("", 0)


def test_what_is_not_there_is_said_with_what_is(store: Store, made: dict[str, Manifest]) -> None:
    for asked, words in (
        ({"model": "n"}, r"n: not in .*; it holds m"),
        ({"model": "m", "variant": "x"}, "no variant 'x'; there is gguf-q4_k_m, gguf-q8_0, gptq-4bit-g64$"),
        ({"model": "m", "channel": "stable"}, "no channel 'stable' in .*; it has no channel"),
        ({"model": "m", "where": "memory<1GB"}, r"no variant meets memory<1GB; .*gguf-q4_k_m: memory is 2000\.0 MB; "),
        (
            {"model": "m", "best": "speed"},
            r"--hardware: .* one class of machine, '.*cores\)' .* of: a processor, 2 threads$",
        ),
        (
            {"model": "m", "best": "speed", "hardware": "H100"},
            "'H100' names none or several of: a processor, 2 threads$",
        ),
        ({"model": "m", "where": "perplexity_ratio<2"}, "perplexity_ratio is not recorded"),
    ):
        with pytest.raises(NotFound, match=words):
            resolve(store, **asked)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="--best: 'beauty': allowed are quality, size, speed"):
        resolve(store, "m", best="beauty")  # type: ignore[arg-type]


def test_a_channel_is_what_counts_where_one_is_named(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    stable(store, made["gguf-q8_0"])
    newer = publish(store, tmp_path / "made", "gguf-q8_0", 9)
    assert resolve(store, "m", variant="gguf-q8_0").digest == newer.digest
    chosen = resolve(store, "m", "stable")
    assert (chosen.digest, chosen.channel, chosen.seq) == (made["gguf-q8_0"].digest, "stable", 1)
    with pytest.raises(NotFound, match="no variant 'gptq-4bit-g64' in channel 'stable'; there is gguf-q8_0"):
        resolve(store, "m", "stable", variant="gptq-4bit-g64")


def test_of_other_models_nothing_is_listed(
    store: Store, made: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may hold thousands."""
    asked: list[str] = []
    under = type(store.objects).under

    def listed(objects: Any, prefix: str) -> Any:
        asked.append(prefix)
        return under(objects, prefix)

    monkeypatch.setattr(type(store.objects), "under", listed)
    resolve(store, "m")
    assert asked
    assert all(prefix.startswith("models/m/") for prefix in asked), asked


def test_an_empty_channel_is_not_the_newest_version(store: Store, made: dict[str, Manifest]) -> None:
    """`--channel "$CHANNEL"` where that is not set."""
    with pytest.raises(RequestError, match="'': not a plain name"):
        resolve(store, "m", "")


def test_a_revoked_version_is_not_handed_out(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    newer = publish(store, tmp_path / "made", "gguf-q8_0", 9)
    stable(store, made["gguf-q8_0"])
    stable(store, newer)
    moved = channels.withdraw(store, "m", "gguf-q8_0", newer.digest, "rambles")
    assert [channel.current.variants["gguf-q8_0"] for channel in moved] == [made["gguf-q8_0"].digest]
    assert channels.withdraw(store, "m", "gguf-q8_0", newer.digest, "again") == []
    assert resolve(store, "m", variant="gguf-q8_0").digest == made["gguf-q8_0"].digest
    channels.withdraw(store, "m", "gguf-q8_0", made["gguf-q8_0"].digest, "rambles too")
    with pytest.raises(NotFound, match=r"gguf-q8_0 was revoked: rambles$"):
        resolve(store, "m", variant="gguf-q8_0")
    with pytest.raises(NotFound, match="no variant 'gguf-q8_0' in channel 'stable'; there is none"):
        resolve(store, "m", "stable", variant="gguf-q8_0")


def test_a_pulled_folder(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    moved: list[int] = []
    chosen = resolve(store, "m")
    tree = pull(store, chosen, tmp_path / "to", on_bytes=moved.append)
    assert sum(moved) == chosen.size_bytes
    assert tree == (tmp_path / "to" / "current").resolve()
    assert (tmp_path / "to" / "current").readlink() == Path("store") / chosen.digest
    held = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert held == {file.path for file in chosen.manifest.files} | {".quantmill/manifest.json"}
    assert tree.joinpath(WEIGHTS).stat().st_nlink == 1, "a copy: whoever writes into it does not reach the store"
    assert verify(tmp_path / "to") == verify(tree) == verify(tmp_path / "to" / "current") == chosen.manifest
    moved.clear()
    inode = tree.joinpath(WEIGHTS).stat().st_ino
    assert pull(store, chosen, tmp_path / "to", on_bytes=moved.append) == tree
    assert sum(moved) == chosen.size_bytes
    assert tree.joinpath(WEIGHTS).stat().st_ino == inode, "nothing was fetched again"


def test_the_previous_version_stays_and_older_ones_go(store: Store, tmp_path: Path) -> None:
    versions = [publish(store, tmp_path / "made", seed=seed) for seed in (1, 2, 3)]
    for each in versions:
        stable(store, each)
        pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    place = tmp_path / "to"
    assert (place / "current").readlink().name == versions[2].digest
    assert (place / "previous").readlink().name == versions[1].digest
    assert {path.name for path in (place / "store").iterdir()} == {versions[1].digest, versions[2].digest}
    assert set(Place(place).state().checked) == {versions[1].digest, versions[2].digest}
    channels.roll_back(store, "m", "stable", "slow")
    pull(store, resolve(store, "m", "stable"), place)
    assert (place / "current").readlink().name == versions[1].digest
    assert (place / "previous").readlink().name == versions[2].digest
    assert verify(place) == versions[1]


def test_equal_files_of_another_version_are_not_fetched(store: Store, tmp_path: Path) -> None:
    """A version with other figures has other records and the same weights, which are not fetched again."""
    first = publish(store, tmp_path / "made", seed=1)
    pull(store, resolve(store, "m"), tmp_path / "to")
    second = first.model_copy(update={"hardware": "measured again"})
    store.commit(second, version(second, made_at=2.0, variant="gguf-q8_0"))
    blob(store, first, WEIGHTS).unlink()
    tree = pull(store, resolve(store, "m"), tmp_path / "to")
    assert (tree.name, verify(tmp_path / "to")) == (second.digest, second)


def test_a_disk_without_hard_links_is_enough(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What versions share is copied there: the second pull failed, for ever."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for seed in (1, 2):
        made = publish(store, tmp_path / "made", seed=seed)
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", refused)
            pull(store, resolve(store, "m"), tmp_path / "to")
        assert verify(tmp_path / "to") == made


def test_what_was_damaged_on_the_disk_is_mended(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    chosen = resolve(store, "m", variant="gguf-q8_0")
    tree = pull(store, chosen, tmp_path / "to")
    untouched = (tree / "config.json").stat().st_ino
    (tree / WEIGHTS).unlink()
    (tree / ".quantmill" / "manifest.json").unlink()
    with pytest.raises(VerificationError, match=r"manifest\.json: missing"):
        verify(tmp_path / "to")
    assert pull(store, chosen, tmp_path / "to") == tree
    assert verify(tmp_path / "to") == chosen.manifest
    assert (tree / "config.json").stat().st_ino == untouched
    (tree / "notes.txt").write_text("mine")
    with pytest.raises(VerificationError, match=r"notes\.txt: not in the manifest; remove it"):
        pull(store, chosen, tmp_path / "to")


def test_where_nothing_may_be_pulled_to(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    chosen = resolve(store, "m")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    (tmp_path / "file").write_text("...")
    for place, words in (("mine", "holds other files"), ("file", "must be a folder"), ("store", "holds other files")):
        with pytest.raises(RequestError, match=words):
            pull(store, chosen, tmp_path / place)
    pull(store, chosen, tmp_path / "to")
    with pytest.raises(RequestError, match="holds m; take another folder for n"):
        pull(store, chosen.model_copy(update={"model": "n"}), tmp_path / "to")
    with Place(tmp_path / "to").claimed("m"), pytest.raises(StoreError, match="another pull is at work there"):
        pull(store, chosen, tmp_path / "to")
    (tmp_path / "to" / "state.json").write_text("{")
    with pytest.raises(VerificationError, match=r"state\.json: damaged"):
        pull(store, chosen, tmp_path / "to")


def test_no_room_is_said_before_the_first_byte(
    store: Store, made: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(NotEnoughSpace, match=r"0\.00 GB free, the pull needs 0\.07 GB"):
        pull(store, resolve(store, "m"), tmp_path / "to")
    assert not list((tmp_path / "to" / ".staging").rglob("*.safetensors"))


def test_a_keyring_refuses_what_is_not_signed(
    store: Store, made: dict[str, Manifest], tmp_path: Path, pair: key_pairs.KeyPair, keyring: Keyring
) -> None:
    chosen = resolve(store, "m", variant="gguf-q8_0")
    with pytest.raises(VerificationError, match=r"m/gguf-q8_0: version .* is not signed"):
        pull(store, chosen, tmp_path / "to", keyring)
    assert not (tmp_path / "to").exists()
    pull(store, chosen, tmp_path / "to")
    with pytest.raises(VerificationError, match="is not signed"):
        verify(tmp_path / "to", keyring)
    attest(store, chosen.manifest, pair)  # signed later, as a run with a key does it
    pull(store, chosen, tmp_path / "to", keyring)
    assert verify(tmp_path / "to", keyring) == chosen.manifest
    other = Keyring.load(key_pairs.create(tmp_path / "other", "other").public.parent)
    with pytest.raises(VerificationError, match="which the keyring does not hold"):
        pull(store, chosen, tmp_path / "to", other)


@pytest.fixture(scope="module")
def signed_store(tmp_path_factory: pytest.TempPathFactory, pair: key_pairs.KeyPair, keyring: Keyring) -> Path:
    """Return a folder with a store and a target that serves an old version; the channel has a new one."""
    base = tmp_path_factory.mktemp("signed")
    store = store_in(base)
    old, new = (publish(store, base / "made", seed=seed) for seed in (2, 9))
    for each in (old, new):
        attest(store, each, pair)
    stable(store, old)
    pull(store, resolve(store, "m", "stable"), base / "to", keyring)
    stable(store, new)
    return base


class Serving(NamedTuple):
    """A copy of it, to be harmed."""

    store: Store
    place: Path
    old: Manifest
    new: Manifest


@pytest.fixture
def serving(signed_store: Path, tmp_path: Path) -> Serving:
    shutil.copytree(signed_store, tmp_path / "signed", symlinks=True)
    store = store_in(tmp_path / "signed")
    old, new = (store.manifest(version.manifest) for version in store.versions("m", "gguf-q8_0"))
    return Serving(store, tmp_path / "signed" / "to", old, new)


def damage_file(name: str) -> Callable[[Store, Manifest, Manifest], object]:
    return lambda store, _, new: flip(blob(store, new, name), 700)


def damage_record(pattern: str, at: int) -> Callable[[Store, Manifest, Manifest], object]:
    return lambda store, _, new: flip(next(Path(store.uri).glob(pattern.format(new.digest))), at)


def swap_attestations(store: Store, old: Manifest, new: Manifest) -> None:
    theirs, ours = (Path(store.uri) / "attestations" / f"{each.digest}.dsse.json" for each in (old, new))
    ours.write_bytes(theirs.read_bytes())


def drop_attestation(store: Store, _: Manifest, new: Manifest) -> None:
    (Path(store.uri) / "attestations" / f"{new.digest}.dsse.json").unlink()


STORE_DAMAGE: dict[str, tuple[Callable[[Store, Manifest, Manifest], object], str]] = {
    "first file": (damage_file(WEIGHTS), WEIGHTS),
    "second file": (damage_file("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
    "manifest, first byte": (damage_record("manifests/sha256/{}.json", 0), "manifest {}"),
    "manifest, a figure": (damage_record("manifests/sha256/{}.json", 300), "manifest {}"),
    "attestation, payload": (damage_record("attestations/{}.dsse.json", 500), "attestation of version"),
    "attestation, signature": (damage_record("attestations/{}.dsse.json", -20), "attestation of version"),
    "swapped attestation": (swap_attestations, "attestation of version"),
    "no attestation": (drop_attestation, "is not signed"),
}


@pytest.mark.parametrize("damage", STORE_DAMAGE)
def test_fault_15_what_is_wrong_in_the_store_is_refused_before_the_swap(
    serving: Serving, keyring: Keyring, damage: str
) -> None:
    store, place, old, new = serving
    harm, words = STORE_DAMAGE[damage]
    harm(store, old, new)
    with pytest.raises(VerificationError) as raised:
        pull(store, resolve(store, "m", "stable"), place, keyring)
    assert words.format(new.digest) in str(raised.value)
    assert raised.value.exit_code == 4
    assert verify(place, keyring) == old, "the old version keeps serving"
    assert (place / "current").readlink().name == old.digest


def test_fault_15_each_file_of_a_version(serving: Serving, keyring: Keyring) -> None:
    """Damage each file of the new version in the store; a pull takes old files from the disk."""
    store, place, old, new = serving
    known = {file.sha256 for file in old.files}
    only_new = [file for file in new.files if file.sha256 not in known]
    assert len(only_new) == 2
    for file in new.files:
        path = blob(store, new, file.path)
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            flip(path, at)
            to = place.with_name("empty")
            with pytest.raises(VerificationError, match=file.path):
                pull(store, resolve(store, "m", "stable"), to, keyring)
            assert not (to / "current").is_symlink()
            path.write_bytes(whole)
            shutil.rmtree(to)
    pull(store, resolve(store, "m", "stable"), place, keyring)
    assert verify(place, keyring) == new


def test_fault_15_one_flipped_byte_on_the_disk(serving: Serving, keyring: Keyring) -> None:
    """Flip a byte in every file of the folder, at both ends and between; the error names the file."""
    _, place, old, _ = serving
    tree = (place / "current").resolve()
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    assert len(files) == len(old.files) + 2
    for path in files:
        whole, state = path.read_bytes(), path.stat()
        for at in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
            flip(path, at)
            with pytest.raises(VerificationError) as raised:
                verify(place, keyring)
            assert path.name in str(raised.value) or "attestation of version" in str(raised.value)
            path.write_bytes(whole)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert verify(place, keyring) == old


def test_fault_15_a_channel_that_went_back(serving: Serving, keyring: Keyring) -> None:
    store, place, old, new = serving
    path = Path(store.uri) / "models" / "m" / "channels" / "stable.json"
    now = json.loads(path.read_text())
    pull(store, resolve(store, "m", "stable"), place, keyring)
    path.write_text(json.dumps(now | {"moves": now["moves"][:1]}))
    with pytest.raises(VerificationError, match=r"m/channels/stable\.json: sequence 1 is older than 2, which was seen"):
        pull(store, resolve(store, "m", "stable"), place, keyring)
    now["moves"][1]["variants"] = {"gguf-q8_0": old.digest}
    path.write_text(json.dumps(now))
    with pytest.raises(VerificationError, match="sequence 2 has other content than was seen in"):
        pull(store, resolve(store, "m", "stable"), place, keyring)
    assert verify(place, keyring) == new
    assert Place(place).current == new.digest


def test_fault_15_what_is_current_leads_elsewhere(serving: Serving, keyring: Keyring, tmp_path: Path) -> None:
    """Another version that a trusted key signed, in another place, is not what was pulled here."""
    store, place, _, new = serving
    pull(store, resolve(store, "m", "stable"), tmp_path / "other", keyring)
    (place / "current").unlink()
    (place / "current").symlink_to(tmp_path / "other" / "store" / new.digest)
    with pytest.raises(VerificationError, match="current: not a link to a version in"):
        verify(place, keyring)


def test_fault_15_the_commands_end_with_4(serving: Serving, pair: key_pairs.KeyPair) -> None:
    store, place, old, new = serving
    ring = pair.public.parent
    flip(blob(store, new, WEIGHTS), 5)
    asked = ("pull", "m", "--channel", "stable", "--store", store.uri, "--keyring", ring, "--to", place)
    code, _, error = command(*asked)
    assert (code, error.count("\n")) == (4, 1)
    assert WEIGHTS in error
    code, out, _ = command("verify", place, "--keyring", ring, "--json", "-")
    assert (code, json.loads(out)["manifest"]) == (0, old.digest)
    flip(place / "current" / "config.json", 3)
    code, out, error = command("verify", place)
    assert (code, out, error.count("\n")) == (4, "", 1)
    assert f"{old.digest}/config.json: its bytes are not those of " in error


@pytest.mark.parametrize("kind", ["file", "link", "folder", "pipe", "record", "missing"])
def test_a_folder_holds_just_what_the_manifest_names(
    store: Store, made: dict[str, Manifest], tmp_path: Path, kind: str
) -> None:
    tree = pull(store, resolve(store, "m"), tmp_path / "to")
    copy = shutil.copytree(tree, tmp_path / "copy")
    assert verify(copy) == resolve(store, "m").manifest, "a copy elsewhere can be verified too"
    if kind == "file":
        (copy / "more.json").write_text("{}")
    elif kind == "link":
        (copy / "more.json").symlink_to("config.json")
    elif kind == "folder":
        (copy / "more.json").mkdir()
    elif kind == "pipe":
        os.mkfifo(copy / "more.json")
    elif kind == "record":
        (copy / ".quantmill" / "more.json").write_text("{}")
    else:
        (copy / "config.json").rename(tmp_path / "more.json")
    words = {
        "link": "neither a plain file nor a folder",
        "pipe": "neither a plain file nor a folder",
        "missing": "missing",
    }
    with pytest.raises(VerificationError, match=f"(more|config).json: {words.get(kind, 'not in the manifest')}"):
        verify(copy)


def replace_manifest(store: Store, change: Callable[[dict[str, Any]], object]) -> str:
    """Put a manifest that was changed by hand where the channel leads; its digest is right."""
    good = json.loads(keys.canonical(resolve(store, "m").manifest))
    change(good)
    digest = keys.digest(good)
    root = Path(store.uri)
    (root / "manifests" / "sha256" / f"{digest}.json").write_bytes(keys.canonical(good))
    channel = root / "models" / "m" / "channels" / "stable.json"
    held = json.loads(channel.read_text())
    held["moves"][-1]["variants"] = {"gptq-4bit-g64": digest}
    channel.write_text(json.dumps(held))
    return digest


HOSTILE_PATHS = [
    "../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "a\\b", "CONFIG.JSON", "config.json/x", "con", "aux.json", "x\0y",
    ".quantmill/manifest.json", ".QUANTMILL/x", "", ".", "a//b", "x ", "a\nb", "x" * 600,
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_fault_20_hostile_names_in_a_manifest(
    store: Store, made: dict[str, Manifest], tmp_path: Path, path: str
) -> None:
    stable(store, made["gptq-4bit-g64"])
    digest = replace_manifest(store, lambda held: held["files"].append(held["files"][0] | {"path": path}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VerificationError, match=f"manifest {digest}: files") as raised:
        pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written, anywhere"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.update(name="m/other"), "it is 'm/other', not m/gptq-4bit-g64"),
        (lambda held: held.update(name="../evil/x"), "it is '../evil/x'"),
        (lambda held: held["variant"].update(bits="many"), "variant: invalid literal for int"),
        (lambda held: held.update(schema_version="new"), "schema_version: 'new': must be a number from 1"),
        (lambda held: held["evaluation"]["metrics"].update(mean_kl="low"), "evaluation.metrics.mean_kl"),
        (lambda held: held["files"][0].update(sha256="../../../etc/passwd"), "files.0.sha256"),
        (lambda held: held.pop("safety"), "safety: Field required"),
    ],
)
def test_fault_20_hostile_manifests(
    store: Store, made: dict[str, Manifest], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    stable(store, made["gptq-4bit-g64"])
    replace_manifest(store, change)
    with pytest.raises(VerificationError) as raised:
        resolve(store, "m", "stable")
    assert words in str(raised.value)


def lead_to(store: Store, data: bytes) -> str:
    """Let the channel hold a manifest of just these bytes, as whoever can write into a store may."""
    digest, root = hashlib.sha256(data).hexdigest(), Path(store.uri)
    (root / "manifests" / "sha256" / f"{digest}.json").write_bytes(data)
    held = channels.read_channel(store, "m", "stable")
    assert held is not None
    move = held.current.model_copy(update={"seq": held.seq + 1, "variants": {"gguf-q8_0": digest}})
    moved = held.model_copy(update={"moves": (*held.moves, move)})
    (root / "models" / "m" / "channels" / "stable.json").write_bytes(keys.canonical(moved))
    return digest


def test_fault_15_a_signed_version_under_another_name(serving: Serving, keyring: Keyring) -> None:
    """The same manifest with other white space has another digest, which is signed and not revoked."""
    store, place, old, new = serving
    channels.withdraw(store, "m", "gguf-q8_0", new.digest, "rambles")
    signature = store.attestation(new.digest)
    assert signature is not None
    digest = lead_to(store, json.dumps(new.model_dump(mode="json"), indent=1).encode())
    (Path(store.uri) / "attestations" / f"{digest}.dsse.json").write_bytes(signature)
    with pytest.raises(VerificationError, match=f"manifest {digest}: not canonical JSON, as manifests must be"):
        pull(store, resolve(store, "m", "stable"), place, keyring)
    assert verify(place, keyring) == old, "the old version keeps serving"


@pytest.mark.parametrize("figure", [b"NaN", b"-Infinity", b"1e999"])
def test_fault_15_a_figure_that_is_no_number(serving: Serving, figure: bytes) -> None:
    store, _, _, new = serving
    lead_to(store, keys.canonical(new).replace(b'"mean_kl":0.05', b'"mean_kl":' + figure))
    with pytest.raises(VerificationError, match="holds a figure that is NaN or infinite"):
        resolve(store, "m", "stable")


@pytest.mark.parametrize("what", ["manifest", "channel", "version"])
def test_fault_20_millions_of_wrong_parts_are_not_told_apart(
    store: Store, made: dict[str, Manifest], what: str
) -> None:
    """A channel of 15 MB took 30 s and 11 GB of memory until it was refused."""
    stable(store, made["gptq-4bit-g64"])
    data = b'{"moves":[' + b"{}," * 300_000 + b"{}]}"
    if what == "manifest":
        digest = hashlib.sha256(data).hexdigest()
        store.objects.create(f"manifests/sha256/{digest}.json", data)
        with pytest.raises(VerificationError, match=f"manifest {digest}: a record has at most 200000 brackets"):
            store.manifest(digest)
        return
    folder = "models/m/channels" if what == "channel" else "models/m/gptq-4bit-g64/versions"
    next((Path(store.uri) / folder).iterdir()).write_bytes(data)
    with pytest.raises(VerificationError, match=f"{folder}/.*a record has at most 200000 brackets and commas"):
        resolve(store, "m", "stable" if what == "channel" else None)


def test_fault_20_a_channel_that_leads_elsewhere(store: Store, made: dict[str, Manifest]) -> None:
    stable(store, made["gptq-4bit-g64"])
    path = Path(store.uri) / "models" / "m" / "channels" / "stable.json"
    held = json.loads(path.read_text())
    for digest in ("../../x", "/etc/passwd", "", "A" * 64, "x" * 10_000):
        held["moves"][-1]["variants"] = {"gptq-4bit-g64": digest}
        path.write_text(json.dumps(held))
        with pytest.raises(VerificationError, match="not a channel"):
            resolve(store, "m", "stable")
    held["moves"][-1]["variants"] = {"../../x": made["gptq-4bit-g64"].digest}
    path.write_text(json.dumps(held))
    with pytest.raises(VerificationError, match="not a channel"):
        resolve(store, "m", "stable")
    path.unlink()
    for name in ("..", "a/b", "/", "a%2fb", "a#b", "con"):
        with pytest.raises(RequestError):
            resolve(store, name)
        with pytest.raises(RequestError):
            resolve(store, "m", channel=name)


@pytest.mark.parametrize("kind", ["link", "link to the same bytes", "pipe", "folder"])
@pytest.mark.parametrize("what", ["blob", "manifest", "channel"])
def test_fault_20_what_is_no_plain_file_in_the_store(
    store: Store, made: dict[str, Manifest], tmp_path: Path, kind: str, what: str
) -> None:
    """A pipe would never end and a link would lead out of the store: both are refused without being read."""
    stable(store, made["gptq-4bit-g64"])
    chosen = resolve(store, "m", "stable")
    places = {
        "blob": blob(store, chosen.manifest, WEIGHTS),
        "manifest": Path(store.uri) / "manifests" / "sha256" / f"{chosen.digest}.json",
        "channel": Path(store.uri) / "models" / "m" / "channels" / "stable.json",
    }
    path = places[what]
    path.rename(tmp_path / "aside")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/etc/hostname" if kind == "link" else tmp_path / "aside")
    with pytest.raises(VerificationError, match=f"{path.name}: not a plain file"):
        pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    assert not (tmp_path / "to" / "current").exists()


def test_fault_20_an_empty_file_that_is_a_pipe(store: Store, made: dict[str, Manifest], tmp_path: Path) -> None:
    stable(store, made["gptq-4bit-g64"])
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    replace_manifest(store, lambda held: held["files"][0].update(size_bytes=0, sha256=empty))
    place = Path(store.uri) / "blobs" / "sha256" / empty[:2] / empty
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises(VerificationError, match="not a plain file"):
        pull(store, resolve(store, "m", "stable"), tmp_path / "to")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.update(manifest="../../x"), "not a version pointer"),
        (lambda held: held["provenance"].update(made_at=float("nan")), "not a version pointer"),
        (lambda held: held.update(manifest="ab" * 32), "it leads to version abab"),
    ],
)
def test_fault_20_hostile_version_pointers(
    store: Store, made: dict[str, Manifest], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    path = next((Path(store.uri) / "models" / "m" / "gptq-4bit-g64" / "versions").iterdir())
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(VerificationError, match=words):
        resolve(store, "m")


def test_fault_20_what_is_shown_is_checked_too(store: Store, made: dict[str, Manifest]) -> None:
    stable(store, made["gptq-4bit-g64"])
    replace_manifest(store, lambda held: held["variant"].update(bits="many"))
    code, _, error = command("show", "m", "--store", store.uri)
    assert (code, error.count("\n")) == (4, 1)
    path = Path(store.uri) / "models" / "m" / "channels" / "stable.json"
    path.write_text(re.sub('"made_at": [0-9.]+', '"made_at": NaN', path.read_text()))
    with pytest.raises(VerificationError, match="not a channel"):
        resolve(store, "m", "stable")


PICKLE = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x05touch\x94\x85\x94R\x94."


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pytorch_model.bin", PICKLE),
        ("more.safetensors", PICKLE),
        ("more.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        ("more.gguf", PICKLE),
        ("modeling.py", b"print(1)"),
        ("more.json", b'{"auto_map": {"AutoModel": "modeling.M"}}'),
        ("more.json", b"[" * 100_000),
    ],
)
def test_fault_21_a_published_file_that_no_model_needs(store: Store, tmp_path: Path, name: str, data: bytes) -> None:
    """A store that somebody else wrote: the digests are right, the contents are refused before the swap."""
    place = folder(tmp_path / "made", 1)
    (place / name).write_bytes(data)
    made = describe(store.add_folder(place), "gguf-q8_0")
    store.commit(made, version(made, variant="gguf-q8_0"))
    with pytest.raises(VerificationError, match=name):
        pull(store, resolve(store, "m"), tmp_path / "to")
    assert not (tmp_path / "to" / "current").is_symlink()
