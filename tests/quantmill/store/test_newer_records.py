"""Records of a newer release: unknown fields are ignored, a newer layout is refused and named.

The current version keeps serving.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantmill.cli import app
from quantmill.client.client import pull, resolve, verify
from quantmill.client.watch import Watch
from quantmill.errors import LayoutTooNew, VerificationError
from quantmill.files import keys
from quantmill.records.manifest import Manifest, Provenance, Revocation, StoredManifest, Version
from quantmill.signing import key_pairs, signing
from quantmill.signing.key_pairs import KeyPair
from quantmill.signing.signing import Keyring
from quantmill.store import channels, layout
from quantmill.store.collect import Rules, find
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.published import describe, folder, publish, stable
from tests.samples import version

V = "gguf-q8_0"
DEEP = ((), ("model",), ("model", "files", 0), ("evaluation",), ("evaluation", "metrics"), ("evaluation", "speed"),
        ("files", 0), ("safety",))  # fmt: skip


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return key_pairs.create(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="module")
def keyring(pair: KeyPair) -> Keyring:
    return Keyring.load(pair.public.parent)


def newer(record: Any, *places: tuple[str | int, ...]) -> dict[str, Any]:
    """Return a record with a field that nobody knows yet at each of these places."""
    document: dict[str, Any] = json.loads(keys.canonical(record))
    for place in places:
        held: Any = document
        for step in place:
            held = held[step]
        held["since_2030"] = {"a": [1, 2.5, "ü"]}
    return document


def put(store: Store, document: dict[str, Any], seed: int = 9, pair: KeyPair | None = None) -> str:
    """Publish a manifest as a newer release wrote it, make it current, and return its digest."""
    data = keys.canonical(document)
    digest = keys.digest(document)
    store.objects.create(layout.manifest_key(digest), data)
    provenance = Provenance(manifest=digest, recipe={}, made_at=float(seed))
    pointer = Version(model="m", variant=V, manifest=digest, provenance=provenance)
    if pair:
        statement = json.loads(keys.canonical(signing.statement(_known(document), provenance)))
        statement["subject"][0]["digest"]["sha256"] = digest
        statement["since_2030"] = statement["predicate"]["since_2030"] = statement["subject"][1]["uri"] = "x"
        envelope = signing._ask("sign", pair.private, keys.canonical(statement))
        store.objects.create(layout.attestation_key(digest), envelope)
    store.objects.create(layout.version_key("m", V, digest), keys.canonical(newer(pointer, (), ("provenance",))))
    channels.promote(store, "m", "stable", {V: digest}, "a newer release")
    return digest


def _known(document: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(keys.canonical(document), extra="ignore")


def made(store: Store, scratch: Path, seed: int = 2) -> Manifest:
    """Return a manifest whose files are in the store."""
    return describe(store.add_folder(folder(scratch / f"n{seed}", seed)), V)


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*map(str, words)])
    return done.exit_code, done.stdout, f"{done.stderr}{type(done.exception).__name__}: {done.exception}"


def test_unknown_fields_change_nothing_but_the_name(
    store: Store, tmp_path: Path, pair: KeyPair, keyring: Keyring
) -> None:
    plain = made(store, tmp_path)
    with_model = plain.model_copy(update={"model": plain.model.model_copy(update={"files": plain.files[:1]})})
    document = newer(with_model, *DEEP)
    digest = put(store, document, pair=pair)
    assert digest != with_model.digest
    chosen = resolve(store, "m", "stable")
    assert (chosen.digest, chosen.manifest) == (digest, with_model)
    tree = pull(store, chosen, tmp_path / "to", keyring)
    assert tree.name == digest
    assert json.loads((tree / ".quantmill" / "manifest.json").read_bytes()) == document, "nothing is lost on the way"
    assert verify(tmp_path / "to", keyring) == with_model
    for words in (["list"], ["show", "m"], ["channels", "m"]):
        code, out, error = run(*words, "--store", store.uri, "--json", "-")
        assert code == 0, error
        assert digest in out
    code, out, _ = run("verify", tmp_path / "to", "--json", "-")
    assert (code, json.loads(out)["manifest"]) == (0, digest)
    assert find(store, Rules(grace_s=0, retention_s=0)) == []


def test_fault_30_an_unknown_field_gives_a_signed_version_no_second_name(
    store: Store, tmp_path: Path, pair: KeyPair, keyring: Keyring
) -> None:
    """Else what was revoked would come again: the known part of both manifests is what was signed."""
    first = made(store, tmp_path)
    provenance = Provenance(manifest=first.digest, recipe={}, made_at=1.0)
    signature = signing.sign(first, provenance, pair.private)
    store.commit(first, version(first, variant=V), signature)
    stable(store, first)
    pull(store, resolve(store, "m", "stable"), tmp_path / "to", keyring)
    channels.withdraw(store, "m", V, first.digest, "rambles")
    other = put(store, newer(first, ()))
    store.objects.create(layout.attestation_key(other), signature)
    with pytest.raises(
        VerificationError,
        match=rf"version {other[:12]}: its subject '.quantmill/manifest.json' does not match the version",
    ):
        pull(store, resolve(store, "m", "stable"), tmp_path / "to", keyring)
    assert (tmp_path / "to" / "current").readlink().name == first.digest


def test_fault_30_a_newer_layout_is_named_and_what_is_current_serves(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(store, tmp_path / "made", seed=1)
    stable(store, first)
    said: list[str] = []
    watched = Watch(store, "m", "stable", tmp_path / "to", every_s=0.01, say=said.append)
    watched.round()
    put(store, newer(made(store, tmp_path), ()) | {"schema_version": 2})
    rounds = iter(range(3))

    def stop_later(_seconds: float) -> None:
        if next(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("quantmill.client.watch.time.sleep", stop_later)
    with pytest.raises(KeyboardInterrupt):
        watched.run()
    assert [line.partition(": ")[0] for line in said] == [said[0].partition(": ")[0], *["LayoutTooNew"] * 3]
    assert said[-1].endswith("layout 2 is of a newer release; this one reads 1")
    assert verify(tmp_path / "to") == first
    for words in (["list"], ["show", "m"], ["pull", "m", "--to", str(tmp_path / "two")], ["gc", "--dry-run"]):
        code, _, error = run(*words, "--store", store.uri)
        assert (code, "LayoutTooNew: manifest" in error) == (1, True), error


RECORDS: dict[str, Callable[[Store, str], tuple[str, Any]]] = {
    "a version pointer": lambda store, digest: (layout.version_key("m", V, digest), None),
    "a channel": lambda store, digest: ("models/m/channels/stable.json", None),
    "a revocation": lambda store, digest: (
        layout.revocation_key("m", V, digest),
        Revocation(manifest=digest, reason="r", made_at=1.0),
    ),
}


@pytest.mark.parametrize("what", RECORDS)
def test_fault_30_every_record_that_consumers_read_states_its_layout(what: str, store: Store, tmp_path: Path) -> None:
    digest = publish(store, tmp_path / "made", seed=1).digest
    channels.promote(store, "m", "stable", {V: digest}, "a test")
    key, record = RECORDS[what](store, digest)
    if record:
        store.objects.create(key, keys.canonical(record))
    held = store.objects.read(key)
    assert held is not None
    store.objects.replace(key, keys.canonical(json.loads(held.data) | {"schema_version": 2}))
    with pytest.raises(LayoutTooNew, match=rf"{key}: layout 2 is of a newer release; this one reads 1"):
        resolve(store, "m", "stable" if what == "a channel" else None)
    assert LayoutTooNew.exit_code == 1


def test_a_channel_keeps_what_a_newer_release_wrote_into_it(store: Store, tmp_path: Path) -> None:
    first, second = (publish(store, tmp_path / "made", seed=seed) for seed in (1, 2))
    stable(store, first)
    key = "models/m/channels/stable.json"
    held = store.objects.read(key)
    assert held is not None
    document = json.loads(held.data)
    document["owner"] = document["moves"][0]["who"] = "somebody"
    store.objects.replace(key, keys.canonical(document))
    pull(store, resolve(store, "m", "stable"), tmp_path / "to")
    stable(store, second)
    held = store.objects.read(key)
    assert held is not None
    after = json.loads(held.data)
    assert (after["owner"], after["moves"][0]) == ("somebody", document["moves"][0])
    pull(store, resolve(store, "m", "stable"), tmp_path / "to")


def test_what_a_move_says_is_known_whatever_of_it_is(store: Store, tmp_path: Path) -> None:
    """A reader that knows more of a move than the one before it must not take the same move for another."""
    stable(store, publish(store, tmp_path / "made", seed=1))
    key = "models/m/channels/stable.json"
    held = store.objects.read(key)
    assert held is not None
    plain = resolve(store, "m", "stable").move
    document = json.loads(held.data)
    assert plain == keys.digest(document["moves"][-1]) == keys.digest(channels.channels(store, "m")[0].current)
    document["moves"][-1]["who"] = "somebody"
    store.objects.replace(key, keys.canonical(document))
    assert resolve(store, "m", "stable").move == keys.digest(document["moves"][-1]) != plain


def test_a_pulled_folder_of_a_newer_release_is_pulled_into(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    publish(store, tmp_path / "made", seed=1)
    pull(store, resolve(store, "m"), tmp_path / "to")
    state = tmp_path / "to" / "state.json"
    state.write_bytes(keys.canonical(newer(json.loads(state.read_bytes()), ())))
    pull(store, resolve(store, "m"), tmp_path / "to")


@pytest.mark.parametrize("newer_release", ["https://in-toto.io/Statement/v2", "https://slsa.dev/provenance/v12"])
def test_a_statement_of_a_newer_layout_is_named(newer_release: str, pair: KeyPair, keyring: Keyring) -> None:
    of = StoredManifest.of(describe((), V))
    provenance = Provenance(manifest=of.digest, recipe={}, made_at=1.0)
    statement = signing.statement(of.manifest, provenance)
    statement["_type" if "in-toto" in newer_release else "predicateType"] = newer_release
    envelope = signing._ask("sign", pair.private, keys.canonical(statement))
    with pytest.raises(LayoutTooNew, match=rf"^m/{V}: attestation of version .*of a newer release"):
        signing.verify(envelope, of, keyring)


@pytest.mark.parametrize("kind", [Manifest, Version, Provenance, Revocation, channels.Channel, channels.Move])
def test_what_is_written_here_is_checked_for_typing_errors(kind: Any) -> None:
    assert kind.model_config["extra"] == "forbid"
