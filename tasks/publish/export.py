"""Export: one published version leaves the store, as a folder, under a prefix of a bucket, or as a repository of a hub.

What arrives is what `quantmill pull` makes: exactly the version's files, and beside them `.quantmill/manifest.json` (last)
and, where it was signed, `.quantmill/attestation.dsse.json`. A place that holds anything but an earlier export is refused.
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
    """Send a version to a place and return where it lies.

    Args:
        store: where it is published.
        model: the published name.
        variant: the variant, with `@` and the first digits of a manifest's digest, or its newest version that stands.
        target: `hf://org/name`, `s3://bucket/prefix` or a folder.
        private: whether a repository that is made is closed to others.
        keyring: keys whose signatures are trusted; with one, an unsigned version is not sent.

    Raises:
        NotFound: there is no such version, or it was revoked.
        RequestError: the target is not written like one, or holds something else; nothing was sent.
        VerificationError: a file is not what the manifest says, or the signature is not right; nothing was sent.
        StoreError: the place refused, or broke off; the same command goes on.
    """
    name, digest = find_version(store, model, variant)
    if revoked := store.revocation(model, name, digest):
        raise NotFound(f"{model}/{name}@{digest[:12]} was revoked: {revoked.reason}")
    version = store.stored_manifest(digest)
    if keyring:
        signing.verify(store.attestation(version.digest), version, keyring)
    scheme = scheme_of(target)
    if scheme and scheme.on_hub:
        export_hub.repository(target)  # raises before anything is laid out
        with tempfile.TemporaryDirectory() as folder:
            names = lay_out(store, version, Path(folder))
            title = f"{version.manifest.name} {version.digest[:12]}"
            return export_hub.send(Path(folder), names, target, private, title)
    if private:
        raise RequestError(f"--private: only a repository hf://org/name is made private, not {target}")
    if target.startswith(address.PREFIX):
        bucket, prefix = export_s3.place(target)
        with tempfile.TemporaryDirectory() as folder:
            names = lay_out(store, version, Path(folder))
            return export_s3.send(Path(folder), names, bucket, prefix)
    if "://" in target:
        raise RequestError(f"{target}: export goes to hf://org/name, s3://bucket/prefix or a folder")
    return _to_folder(store, version, Path(target))


def lay_out(store: Store, version: StoredManifest, folder: Path, copy: bool = False) -> list[str]:
    """Lay a version out in a folder, every byte checked, and return the names, the manifest's last."""
    names = [entry.path for entry in version.manifest.files]
    for entry in version.manifest.files:
        store.fetch_copy(entry, folder / entry.path, copy=copy)
    attestation = store.attestation(version.digest)
    tree.write_records(folder, version, attestation)
    return [*names, *([ATTESTATION_PATH] if attestation else []), MANIFEST_PATH]


def _to_folder(store: Store, version: StoredManifest, target: Path) -> str:
    """Make the folder beside its place and rename it: whole or not at all."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(f"{target}: exists; name a folder to make, or an empty one")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as staging:
        made = Path(staging) / "folder"
        lay_out(store, version, made, copy=True)
        made.replace(target)
    return str(target.absolute())
