"""Signatures: every damaged byte is refused, and a reader who shares no code with us agrees."""

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from quantmill.errors import RequestError, SettingsError, SigningError, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.records.manifest import Manifest, Provenance, StoredManifest
from quantmill.settings import load_settings
from quantmill.signing import key_pairs, signing
from quantmill.signing.key_pairs import KeyPair
from quantmill.signing.signing import Keyring
from quantmill.signing.statement import statement as statement_of
from tests import samples

FILES = (
    FileEntry(path="config.json", size_bytes=2, sha256="cd" * 32),
    FileEntry(path="model.safetensors", size_bytes=3, sha256="ef" * 32),
)
MANIFEST = samples.manifest(FILES)
STORED = StoredManifest.of(MANIFEST)
RECIPE = {"model": {"source": "hf://org/name"}, "variants": [{"method": "gguf"}]}


def provenance(manifest: Manifest = MANIFEST) -> Provenance:
    return Provenance(manifest=manifest.digest, recipe=RECIPE, flow_run="run-1", made_at=1.0, lock_sha256="12" * 32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return key_pairs.create(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="module")
def keyring(pair: KeyPair) -> Keyring:
    return Keyring.load(pair.public.parent)


@pytest.fixture(scope="module")
def envelope(pair: KeyPair) -> bytes:
    return signing.sign(MANIFEST, provenance(), pair.private)


def test_a_signed_version_is_recognised(envelope: bytes, keyring: Keyring, pair: KeyPair) -> None:
    assert signing.verify(envelope, STORED, keyring) == pair.keyid == signing.claimed_key(envelope)
    assert signing.own_keyring(pair.private).ids == keyring.ids == (pair.keyid,)


def test_a_reader_of_another_hand_agrees(envelope: bytes, pair: KeyPair) -> None:
    """A reader built from the DSSE, in-toto and SLSA specifications and `cryptography` alone agrees."""
    document = json.loads(envelope)
    payload, (signature,) = base64.b64decode(document["payload"], validate=True), document["signatures"]
    kind = document["payloadType"].encode()
    signed = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    public = load_pem_public_key(pair.public.read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(base64.b64decode(signature["sig"], validate=True), signed)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), signed + b" ")
    statement = json.loads(payload)
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        ".quantmill/manifest.json": MANIFEST.digest,
        "config.json": "cd" * 32,
        "model.safetensors": "ef" * 32,
    }
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["externalParameters"]["recipe"] == RECIPE
    assert {"name": "requirements.lock", "digest": {"sha256": "12" * 32}} in definition["resolvedDependencies"]
    assert details["metadata"] == {"invocationId": "run-1", "finishedOn": "1970-01-01T00:00:01Z"}


def test_a_file_of_several_keys_is_refused(pair: KeyPair, tmp_path: Path) -> None:
    """The second was passed over in silence, and what it signed was refused."""
    (tmp_path / "both.pem").write_bytes(2 * pair.public.read_bytes())
    with pytest.raises(SettingsError, match=r"both\.pem: several keys; each needs a file of its own"):
        Keyring.load(tmp_path)


def test_when_a_run_began_is_stated_where_it_was_recorded() -> None:
    began = provenance().model_copy(update={"started_at": 0.0})
    metadata = statement_of(MANIFEST, began)["predicate"]["runDetails"]["metadata"]
    assert (metadata["startedOn"], metadata["finishedOn"]) == ("1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z")
    assert "startedOn" not in statement_of(MANIFEST, provenance())["predicate"]["runDetails"]["metadata"]
    assert "started_at" not in provenance().model_dump(mode="json"), "a record of before keeps its bytes"


def test_fault_15_no_byte_of_an_attestation_can_be_another(envelope: bytes, keyring: Keyring) -> None:
    for place in range(len(envelope)):
        for mask in (0x01, 0x20):
            flipped = envelope[:place] + bytes([envelope[place] ^ mask]) + envelope[place + 1 :]
            with pytest.raises(VerificationError, match=r"^m/v: attestation of version"):
                signing.verify(flipped, STORED, keyring)
    for cut in (envelope[:-1], envelope[1:], envelope + b"\n", b" " + envelope):
        with pytest.raises(VerificationError):
            signing.verify(cut, STORED, keyring)


def test_fault_15_no_byte_of_payload_or_signature_can_be_another(envelope: bytes, keyring: Keyring) -> None:
    """The same beneath base64, where a flipped bit never spoils the envelope's form."""
    document = json.loads(envelope)
    for path in ("payload", "sig"):
        holder = document["signatures"][0] if path == "sig" else document
        whole = base64.b64decode(holder[path])
        for place in range(len(whole)):
            damaged = whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :]
            changed = json.loads(envelope)
            (changed["signatures"][0] if path == "sig" else changed)[path] = base64.b64encode(damaged).decode()
            with pytest.raises(VerificationError, match="the signature is not one of key"):
                signing.verify(written(changed), STORED, keyring)


def written(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def other(**changes: object) -> Manifest:
    return MANIFEST.model_copy(update=changes)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (other(license="MIT"), "its subject '.quantmill/manifest.json' does not match the version"),
        (other(files=FILES[:1]), "its subject '.quantmill/manifest.json' does not match the version"),
        (other(files=(*FILES, FILES[0].model_copy(update={"path": "more"}))), "its subject '.quantmill/manifest.json'"),
    ],
)
def test_fault_15_the_signature_of_another_manifest(
    manifest: Manifest, said: str, envelope: bytes, keyring: Keyring
) -> None:
    with pytest.raises(VerificationError, match=said):
        signing.verify(envelope, StoredManifest.of(manifest), keyring)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["subject"].pop(), "it lacks the subject 'model.safetensors'"),
        (lambda s: s["subject"].append(s["subject"][1]), "its subject 'config.json' does not match"),
        (
            lambda s: s["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}),
            "its subject 'x' does not match",
        ),
        (lambda s: s["subject"][1]["digest"].update(sha512="0"), "its subject 'config.json' does not match"),
        (lambda s: s.update(subject={}), "not a list of named digests"),
        (lambda s: s.update(subject=["x"]), "not a list of named digests"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type is"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v0.2"), "predicateType is"),
    ],
)
def test_a_trusted_signature_over_another_statement(change, said: str, keyring: Keyring, pair: KeyPair) -> None:
    from quantmill.signing.signer import load, sign
    from quantmill.signing.statement import statement

    said_of = statement(MANIFEST, provenance())
    change(said_of)
    with pytest.raises(VerificationError, match=said):
        signing.verify(sign(load(pair.private), json.dumps(said_of).encode()), STORED, keyring)


def test_what_is_no_envelope(envelope: bytes, keyring: Keyring) -> None:
    whole = json.loads(envelope)
    (signature,) = whole["signatures"]
    refused = {
        b"{": "not JSON",
        b"[" * 100_000: "not JSON",
        b"\xff\xfe": "not JSON",
        b"[]": "not a JSON object",
        b" " * (17 << 20): "at most",
        written(whole | {"signatures": []}): "one signature is needed",
        written(whole | {"signatures": [signature, signature]}): "one signature is needed",
        written(whole | {"signatures": [signature, signature | {"keyid": "0" * 64}]}): "one signature is needed",
        written(whole | {"signatures": "none"}): "one signature is needed",
        written(whole | {"signatures": [{"keyid": signature["keyid"]}]}): "not a DSSE envelope",
        written(whole | {"signatures": [signature | {"cert": "x"}]}): "not a DSSE envelope",
        written(whole | {"more": 1}): "not a DSSE envelope",
        written(whole | {"payload": 1}): "not a DSSE envelope",
        written(whole | {"payload": "\ud800"}): "not base64",
        written(whole | {"payload": "a"}): "not base64",
        written(whole | {"payloadType": "text/plain"}): "payload of type 'text/plain'",
        written(whole | {"signatures": [signature | {"keyid": "0" * 64}]}): "which the keyring does not hold",
        written(whole | {"signatures": [signature | {"sig": ""}]}): "the signature is not one of key",
    }
    for data, said in refused.items():
        with pytest.raises(VerificationError, match=said):
            signing.verify(data, STORED, keyring)
    for nothing in (None, b""):
        with pytest.raises(VerificationError, match=r"m/v: version [0-9a-f]{12} is not signed"):
            signing.verify(nothing, STORED, keyring)


def test_a_signer_who_is_not_trusted(envelope: bytes, tmp_path: Path) -> None:
    stranger = key_pairs.create(tmp_path, "stranger")
    with pytest.raises(VerificationError, match=f"does not hold \\({stranger.keyid[:12]}\\)"):
        signing.verify(envelope, STORED, Keyring.load(stranger.public.parent))


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_p256_key_of_another_maker(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "p256.pem").write_bytes(private_pem(key))
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "p256.pem").write_bytes(public_pem(key))
    signed = signing.sign(MANIFEST, provenance(), tmp_path / "p256.pem")
    signing.verify(signed, STORED, Keyring.load(tmp_path / "ring"))
    document = json.loads(signed)
    payload, kind = base64.b64decode(document["payload"]), document["payloadType"]
    signature = base64.b64decode(document["signatures"][0]["sig"])
    key.public_key().verify(
        signature, f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload, ec.ECDSA(hashes.SHA256())
    )


def test_keyrings_that_hold_something_else(tmp_path: Path, pair: KeyPair) -> None:
    ring = tmp_path / "ring"
    with pytest.raises(SettingsError, match="must be a folder of public keys"):
        Keyring.load(ring)
    ring.mkdir()
    with pytest.raises(SettingsError, match="holds no public key"):
        Keyring.load(ring)
    bad = {
        b"": "not a public key in PEM",
        b"x" * (1 << 15): "not a public key's file",
        pair.private.read_bytes(): "a private key; a keyring holds public keys only",
        public_pem(rsa.generate_private_key(65537, 2048)): "a key for rsassa-pss-sha256",
        public_pem(ec.generate_private_key(ec.SECP384R1())): "a key for ecdsa-sha2-nistp384",
    }
    for data, said in bad.items():
        (ring / "key.pem").write_bytes(data)
        with pytest.raises(SettingsError, match=said):
            Keyring.load(ring)


def test_private_keys_that_sign_nothing(tmp_path: Path, pair: KeyPair) -> None:
    secret = pair.private.read_text().splitlines()[1]
    for data in (
        b"",
        f"-----BEGIN PRIVATE KEY-----\n{secret[:-8]}\n-----END PRIVATE KEY-----".encode(),
        pair.public.read_bytes(),
        private_pem(rsa.generate_private_key(65537, 2048)),
        private_pem(ec.generate_private_key(ec.SECP384R1())),
    ):
        (tmp_path / "key.pem").write_bytes(data)
        with pytest.raises(
            SigningError, match="not an Ed25519 or P-256 private key in PEM without a password"
        ) as caught:
            signing.sign(MANIFEST, provenance(), tmp_path / "key.pem")
        assert secret[:20] not in str(caught.value)
    with pytest.raises(SigningError, match="cannot be read"):
        signing.own_keyring(tmp_path / "none.pem")


def test_keys_create_overwrites_nothing_and_closes_the_private_key(tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    try:
        os.umask(0)
        pair = key_pairs.create(tmp_path, "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    held = pair.private.read_bytes(), pair.public.read_bytes()
    with pytest.raises(RequestError, match="exists; keys are never overwritten"):
        key_pairs.create(tmp_path, "a")
    pair.private.unlink()
    with pytest.raises(RequestError, match="exists"):
        key_pairs.create(tmp_path, "a")
    assert pair.public.read_bytes() == held[1]
    assert not pair.private.exists()
    for name in ("../a", "a/b", ".a", "", "con"):
        with pytest.raises(RequestError, match="must be a plain file name"):
            key_pairs.create(tmp_path, name)


def test_the_command_says_how_to_use_a_pair(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantmill.cli", "keys", "create", "--out", str(tmp_path / "k"), "--name", "me"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    private, ring = tmp_path / "k" / "me.private.pem", tmp_path / "k" / "keyring"
    assert f"QUANTMILL_SIGNING_KEY={private}" in done.stdout
    assert f"QUANTMILL_KEYRING={ring}" in done.stdout
    assert f"Key {Keyring.load(ring).ids[0]}" in done.stdout
    assert private.read_text().splitlines()[1] not in done.stdout + done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_a_key_that_others_can_read_is_refused_by_the_settings(
    pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    monkeypatch.setenv("QUANTMILL_SIGNING_KEY", str(key))
    with pytest.raises(SettingsError, match=r"QUANTMILL_SIGNING_KEY: must be a private key's file, got"):
        load_settings()
    key.write_bytes(pair.private.read_bytes())
    for mode in (0o640, 0o604, 0o660, 0o610):
        key.chmod(mode)
        with pytest.raises(SettingsError, match="QUANTMILL_SIGNING_KEY: must be closed to others"):
            load_settings()
    key.chmod(0o400)
    assert load_settings().signing_key == key


def test_the_parent_never_opens_the_private_key(pair: KeyPair, tmp_path: Path) -> None:
    """Audit hooks see every `open` of a process; the child has none, and an environment of its own."""
    code = (
        "import sys, pathlib; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from quantmill import signing\n"
        "from tests.quantmill.signing.test_signing import MANIFEST, STORED, provenance\n"
        "signing.own_keyring(pathlib.Path(sys.argv[1]))\n"
        "signing.verify(signing.sign(MANIFEST, provenance(), pathlib.Path(sys.argv[1])), STORED,\n"
        "               signing.Keyring.load(pathlib.Path(sys.argv[2])))\n"
        "print(sum(sys.argv[1] in path for path in opened), sum(sys.argv[2] in path for path in opened))"
    )
    command = [sys.executable, "-c", code, str(pair.private), str(pair.public.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[3])
    assert done.stdout.split() == ["0", "1"]
