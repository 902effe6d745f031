"""Exports one published version to a folder, a prefix of a bucket, or a repository of a hub.

The target gets the same files as from `quantmill pull`: the version's files, `.quantmill/attestation.dsse.json` if the
version is signed, and last `.quantmill/manifest.json`. A target that holds anything but an earlier export is refused.
"""

import tempfile
from pathlib import Path

from quantmill import signing
from quantmill.client import tree
from quantmill.errors import NotFound, RequestError
from quantmill.recipe.schemes import scheme_of
from quantmill.records.manifest import ATTESTATION_PATH, MANIFEST_PATH, StoredManifest
from quantmill.s3 import address
from quantmill.signing import Keyring
from quantmill.store.named import find_version
from quantmill.store.store import Store
from tasks.publish import export_hub, export_s3


def export(
    store: Store, model: str, variant: str, target: str, private: bool = False, keyring: Keyring | None = None
) -> str:
    """Export a version and return the address of the export.

    Args:
        store: the store of the version.
        model: the published name of the model.
        variant: the variant for its newest version that is not revoked, or `VARIANT@` and first digits of a digest.
        target: `hf://org/name`, `s3://bucket/prefix` or a folder.
        private: whether a new repository is private.
        keyring: trusted keys; with a keyring, a version must have a trusted signature.

    Raises:
        NotFound: there is no such version, or it was revoked.
        RequestError: the target is malformed, or holds something else; nothing was sent.
        VerificationError: a file differs from the manifest, or the signature is not valid; nothing was sent.
        StoreError: the target's server refused, or the connection broke; the same command continues the export.
    """
    name, digest = find_version(store, model, variant)
    if revoked := store.revocation(model, name, digest):
        raise NotFound(f"{model}/{name}@{digest[:12]} was revoked: {revoked.reason}")
    version = store.stored_manifest(digest)
    if keyring:
        signing.verify(store.attestation(version.digest), version, keyring)
    scheme = scheme_of(target)
    if scheme and scheme.on_hub:
        export_hub.repository(target)  # raises before any file is copied
        with tempfile.TemporaryDirectory() as folder:
            names = lay_out(store, version, Path(folder))
            title = f"{version.manifest.name} {version.digest[:12]}"
            return export_hub.send(Path(folder), names, target, private, title)
    if private:
        raise RequestError(f"--private: allowed only for a repository hf://org/name, not for {target}")
    if target.startswith(address.PREFIX):
        bucket, prefix = export_s3.place(target)
        with tempfile.TemporaryDirectory() as folder:
            names = lay_out(store, version, Path(folder))
            return export_s3.send(Path(folder), names, bucket, prefix)
    if "://" in target:
        raise RequestError(f"{target}: export goes to hf://org/name, s3://bucket/prefix or a folder")
    return _to_folder(store, version, Path(target))


def lay_out(store: Store, version: StoredManifest, folder: Path, copy: bool = False) -> list[str]:
    """Copy a version's files to a folder, check every byte, and return the file names, the manifest last."""
    names = [entry.path for entry in version.manifest.files]
    for entry in version.manifest.files:
        store.fetch_copy(entry, folder / entry.path, copy=copy)
    attestation = store.attestation(version.digest)
    tree.write_records(folder, version, attestation)
    return [*names, *([ATTESTATION_PATH] if attestation else []), MANIFEST_PATH]


def _to_folder(store: Store, version: StoredManifest, target: Path) -> str:
    """Fill a temporary folder beside the target and rename it, so that the export is complete or absent."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(f"{target}: exists; name a folder to make, or an empty one")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as staging:
        made = Path(staging) / "folder"
        lay_out(store, version, made, copy=True)
        made.replace(target)
    return str(target.absolute())
