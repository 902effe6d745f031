"""Signs versions and checks signatures: one DSSE envelope for each manifest.

DSSE: https://github.com/secure-systems-lab/dsse. A signature says who published a version, not that the version is good. Only
`signer.py` reads the private key, in a process of its own; consumers trust bare public keys in a folder.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.exceptions import VerificationError as NotSigned
from securesystemslib.signer import SSlibKey

from quantmill.errors import LayoutTooNew, SettingsError, SigningError, VerificationError
from quantmill.files import keys
from quantmill.records.manifest import Manifest, Provenance, StoredManifest
from quantmill.signing.signer import PAYLOAD_TYPE
from quantmill.signing.statement import PREDICATE_TYPE, STATEMENT_TYPE, statement, subjects

_ENVELOPE_BYTES = 16 << 20
_KEY_BYTES = 1 << 14
_SCHEMES = ("ed25519", "ecdsa-sha2-nistp256")
_WAIT_S = 60


class Keyring:
    """The trusted public keys, by id."""

    def __init__(self, keys_by_id: Mapping[str, SSlibKey]) -> None:
        """Take the keys to trust, by id."""
        self._keys = dict(keys_by_id)

    @classmethod
    def load(cls, folder: Path) -> "Keyring":
        """Return the keyring of a folder, in which every file is one public key in PEM.

        Raises:
            SettingsError: the folder does not exist, is empty, or holds a file that is not a public key.
        """
        if not folder.is_dir():
            raise SettingsError(f"QUANTMILL_KEYRING: {folder}: must be a folder of public keys")
        found = {}
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            if not path.is_file() or path.stat().st_size > _KEY_BYTES:
                raise SettingsError(f"QUANTMILL_KEYRING: {path}: not a public key's file")
            key = _public(path.read_bytes(), str(path))
            found[key.keyid] = key
        if not found:
            raise SettingsError(f"QUANTMILL_KEYRING: {folder}: holds no public key")
        return cls(found)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of the keys: sha256 over the canonical form, 64 hex digits."""
        return tuple(sorted(self._keys))

    def check(self, envelope: Envelope) -> str:
        """Return the id of the key that made an envelope's only signature, or raise VerificationError."""
        (name,) = envelope.signatures
        if name not in self._keys:
            trusted = ", ".join(known[:12] for known in self.ids)
            raise VerificationError(f"signed by key {name[:64]!r}, which the keyring does not hold ({trusted})")
        try:
            envelope.verify([self._keys[name]], threshold=1)
        except (NotSigned, UnverifiedSignatureError) as error:
            raise VerificationError(f"the signature is not one of key {name} over this payload") from error
        return name


def sign(manifest: Manifest, provenance: Provenance, key: Path) -> bytes:
    """Return the signed statement about a version: a DSSE envelope in JSON.

    Raises:
        SigningError: the process with the key failed.
    """
    return _ask("sign", key, keys.canonical(statement(manifest, provenance)))


def own_keyring(key: Path) -> Keyring:
    """Return a keyring that holds only the public half of a private key; raises as `sign` does."""
    public = _public(_ask("public", key), str(key))
    return Keyring({public.keyid: public})


def verify(envelope: bytes | None, version: StoredManifest, keyring: Keyring) -> str:
    """Return the id of the key that signed the bytes of this version's manifest and its files.

    Raises:
        LayoutTooNew: the key signed a statement of a newer layout.
        VerificationError: the version is unsigned, or its signature is wrong.
    """
    what = f"{version.manifest.name}: attestation of version {version.digest[:12]}"
    if not envelope:
        raise VerificationError(f"{version.manifest.name}: version {version.digest[:12]} is not signed")
    try:
        opened = _open(envelope)
        name = keyring.check(opened)
        _require_about(opened.payload, version)
    except (LayoutTooNew, VerificationError) as error:
        raise type(error)(f"{what}: {error}") from error
    return name


def claimed_key(envelope: bytes) -> str:
    """Return the key id that an envelope claims; unchecked, for display only."""
    return next(iter(_open(envelope).signatures))


def _open(envelope: bytes) -> Envelope:
    """Return the parsed envelope; rejects one whose bytes differ from how `signer.py` writes it.

    It must hold exactly one signature.
    """
    document = _json(envelope, "the envelope")
    signatures = document.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise VerificationError("one signature is needed")
    known = set(document) == {"payload", "payloadType", "signatures"} and set(signatures[0]) == {"keyid", "sig"}
    if not known or not all(
        isinstance(v, str) for v in (*document.values(), *signatures[0].values()) if v != signatures
    ):
        raise VerificationError("not a DSSE envelope")
    if document["payloadType"] != PAYLOAD_TYPE:
        raise VerificationError(f"payload of type {document['payloadType'][:80]!r}, not {PAYLOAD_TYPE}")
    try:
        opened = Envelope.from_dict({**document, "signatures": [dict(signatures[0])]})  # from_dict changes its argument
        written = keys.canonical(opened.to_dict())
    except ValueError as error:
        raise VerificationError("payload or signature is not base64") from error
    if written != envelope:
        raise VerificationError("its bytes differ from what the signer wrote")
    return opened


def _require_about(payload: bytes, version: StoredManifest) -> None:
    """Raise unless a signed statement is provenance of exactly this manifest and its files.

    Other fields of the statement are ignored.
    """
    said = _json(payload, "the payload")
    for field, wanted in {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE}.items():
        if _is_newer(str(said.get(field)), wanted):
            raise LayoutTooNew(f"{field} is {str(said[field])[:80]!r}, of a newer release; this one reads {wanted}")
        if said.get(field) != wanted:
            raise VerificationError(f"{field} is {str(said.get(field))[:80]!r}, not {wanted}")
    wanted_subjects = {subject["name"]: subject["digest"] for subject in subjects(version)}
    listed = said.get("subject")
    if not isinstance(listed, list) or not all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in listed):
        raise VerificationError("its subjects are not a list of named digests")
    for subject in listed:
        if "digest" not in subject or subject["digest"] != wanted_subjects.pop(subject["name"], None):
            raise VerificationError(f"its subject {subject['name'][:200]!r} does not match the version")
    if wanted_subjects:
        raise VerificationError(f"it lacks the subject {next(iter(wanted_subjects))!r}")


def _is_newer(said: str, wanted: str) -> bool:
    """Return whether `said` is the URI `wanted` with a later version number at its end."""
    base, _, number = wanted.rpartition("/v")
    found, _, other = said.rpartition("/v")
    return found == base and re.fullmatch("[0-9]{1,4}", other) is not None and int(other) > int(number)


def _json(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > _ENVELOPE_BYTES:
        raise VerificationError(f"{what} has {len(data)} bytes; at most {_ENVELOPE_BYTES} are read")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise VerificationError(f"{what} is not a JSON object")
    return document


def _public(pem: bytes, where: str) -> SSlibKey:
    """Return the public key in a PEM text, or raise SettingsError if its kind is not allowed."""
    if b"PRIVATE KEY" in pem:
        raise SettingsError(f"QUANTMILL_KEYRING: {where}: a private key; a keyring holds public keys only")
    if pem.count(b"-----BEGIN ") > 1:
        raise SettingsError(f"QUANTMILL_KEYRING: {where}: several keys; each needs a file of its own")
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"QUANTMILL_KEYRING: {where}: not a public key in PEM") from error
    if key.scheme not in _SCHEMES:
        raise SettingsError(f"QUANTMILL_KEYRING: {where}: a key for {key.scheme}; allowed are {', '.join(_SCHEMES)}")
    return key


def _ask(order: str, key: Path, statement: bytes = b"") -> bytes:
    """Return the output of the process that reads the key.

    The process gets an empty environment, its input, and nothing else.
    """
    path = Path(__file__).with_name("signer.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(path), order, str(key.absolute())],
            input=statement,
            capture_output=True,
            env={},
            cwd="/",
            timeout=_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SigningError(f"QUANTMILL_SIGNING_KEY: {key}: no answer within {_WAIT_S} s") from error
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        raise SigningError(f"QUANTMILL_SIGNING_KEY: {key}: {words or f'ended with {done.returncode}'}")
    return done.stdout
