"""Makes key pairs for signing: a private PEM for its owner, a folder of public PEMs for consumers."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner

from quantmill.errors import RequestError
from quantmill.files.paths import safe_name, sync
from quantmill.machine import disk


class KeyPair(NamedTuple):
    """A key pair's id and files."""

    keyid: str
    private: Path
    """PEM, readable by its owner alone; the value for QUANTMILL_SIGNING_KEY."""
    public: Path
    """PEM; its folder is the value for QUANTMILL_KEYRING."""


def create(folder: Path, name: str) -> KeyPair:
    """Make an Ed25519 pair: `NAME.private.pem` and `keyring/NAME.pem` below the folder.

    Existing files are never overwritten. If the second file fails, the first file is removed.

    Raises:
        RequestError: one of the files exists, or the name is not a plain file name.
        DiskFull: the disk has no room for both files.
    """
    try:
        plain = not safe_name(name).startswith(".")
    except ValueError:
        plain = False
    if not plain:
        raise RequestError(f"--name: {name!r}: must be a plain file name")
    private, public = folder / f"{name}.private.pem", folder / "keyring" / f"{name}.pem"
    for path in (private, public):
        if path.exists():
            raise RequestError(f"{path}: exists; keys are never overwritten, take another --name")
    signer = CryptoSigner.generate_ed25519()
    pem = signer.private_bytes
    half = load_pem_private_key(pem, None).public_key()
    with disk.room_at(folder), ExitStack() as undo:
        public.parent.mkdir(parents=True, exist_ok=True)
        _write(public, half.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644, undo)
        _write(private, pem, 0o600, undo)
        undo.pop_all()
    return KeyPair(signer.public_key.keyid, private, public)


def _write(path: Path, data: bytes, mode: int, undo: ExitStack) -> None:
    """Create a file with its final mode; never replaces a file. `undo` removes the new file."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise RequestError(f"{path}: exists; keys are never overwritten, take another --name") from error
    undo.callback(path.unlink)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
