"""The store: blobs, stage results, manifests and versions on any backend; keys are in `layout.py`.

Order of a publish: blobs (with the stage result, if there is one), manifest, attestation, version pointer, then announcements.
Readers start from a version pointer or a channel, so they never see an unfinished publish.
"""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantmill.errors import BlobMissing, NotFound, StoreError, VerificationError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path
from quantmill.files.walk import plain_files
from quantmill.records.artifact import StageResult
from quantmill.records.manifest import Manifest, Revocation, StoredManifest, Version
from quantmill.store import layout, side_records, stored
from quantmill.store.cache import BlobCache
from quantmill.store.layout import blob_key, digest_in
from quantmill.store.leases import Leases
from quantmill.store.objects import Objects, OnBytes, ignore
from quantmill.store.side_records import SideRecord

_FILES_AT_ONCE = 4


class Store:
    """Blobs by sha256, stage results, manifests and versions; safe with several concurrent writers."""

    def __init__(self, objects: Objects, stage_days: float = 90.0, cache: BlobCache | None = None) -> None:
        """Use the backend `objects`; stage results expire after `stage_days`."""
        self.objects, self.leases, self._cache = objects, Leases(objects), cache
        self.stage_s = stage_days * 86400

    @property
    def uri(self) -> str:
        """The store's address: a path, or s3://bucket/prefix."""
        return self.objects.uri

    def has_blob(self, entry: FileEntry) -> bool:
        """Return whether the store holds the blob with the entry's size."""
        return self.objects.size(blob_key(entry.sha256)) == entry.size_bytes

    def add_folder(self, folder: Path, on_bytes: OnBytes = ignore) -> tuple[FileEntry, ...]:
        """Store every file below `folder` and return the entries by path; hard links if the disk is the same.

        The blobs are leased until a stage result or a version that names them is written.

        Raises:
            StoreError: the folder holds a path that is neither a plain file nor a folder.
        """
        files = plain_files(folder, lambda path: StoreError(f"{path}: only plain files can be stored"))

        def describe(path: Path) -> FileEntry:
            name = safe_path(path.relative_to(folder).as_posix())
            return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))

        def add(path: Path, entry: FileEntry) -> None:
            self.objects.add_file(blob_key(entry.sha256), path, entry.sha256, on_bytes)
            self._keep(entry, path)

        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            entries = tuple(pool.map(describe, files))
            self.leases.hold(entry.sha256 for entry in entries)
            list(pool.map(add, files, entries))
        return entries

    def fetch_copy(self, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = True) -> None:
        """Put a checked file at `target` without the cache; see `Objects.fetch_file`."""
        self.objects.fetch_file(blob_key(entry.sha256), entry, target, on_bytes, copy)

    def fetch(self, entries: tuple[FileEntry, ...], folder: Path, on_bytes: OnBytes = ignore) -> None:
        """Put files into `folder` for reading only; they are hard links if the disk is the same.

        Raises:
            BlobMissing: the store lacks a blob.
            VerificationError: a blob's bytes do not match its digest; a blob that is damaged in the store is removed from it.
        """

        def lay_out(entry: FileEntry) -> None:
            key, target = blob_key(entry.sha256), folder / entry.path
            if self._cache and self._cache.fetch(key, entry, target, on_bytes):
                return
            try:
                self.objects.fetch_file(key, entry, target, on_bytes)
                self._keep(entry, target)
            except VerificationError as error:
                if self.objects.intact(key, entry):
                    raise  # the stored blob is whole; only its copy was wrong
                self.objects.delete(key)  # the next run stores the blob again
                raise VerificationError(f"{error}; dropped") from error

        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(lay_out, entries))

    def look_up(self, stage: str, key: str) -> StageResult | None:
        """Return a stage's result if it has not expired and the store holds all its blobs, else None."""
        held = self.objects.read(layout.stage_key(stage, key))
        if held is None:
            return None
        try:
            result = StageResult.model_validate_json(held.data)
        except ValidationError:
            return None  # of another release, or damaged: the stage runs again and replaces the record
        if (result.stage, result.key) != (stage, key) or time.time() - result.made_at > self.stage_s:
            return None
        return result if all(self.has_blob(blob) for blob in result.blobs) else None

    def record(self, result: StageResult, anew: bool = False) -> StageResult:
        """Write a stage result and return the result in force: an earlier complete result, unless `anew`."""
        key, data = layout.stage_key(result.stage, result.key), keys.canonical(result)
        winner = None
        if not self.objects.create(key, data) and (anew or not (winner := self.look_up(result.stage, result.key))):
            self.objects.replace(key, data)
        self.leases.release(blob.sha256 for blob in result.blobs)
        return winner or result

    def commit(self, manifest: Manifest, version: Version, attestation: bytes = b"") -> bool:
        """Publish manifest, attestation and version pointer; return False if the version existed already.

        Raises:
            BlobMissing: the store lacks a file of the manifest.
            VerificationError: a file's bytes do not match the manifest; nothing is published.
        """
        with self.leases.holding([manifest.digest, *(entry.sha256 for entry in manifest.files)]):
            for entry in manifest.files:
                self._require(entry)
            self._put(layout.manifest_key(manifest.digest), keys.canonical(manifest))
            if attestation:
                self._put(layout.attestation_key(manifest.digest), attestation)
            self.leases.require()
            key = layout.version_key(version.model, version.variant, version.manifest)
            fresh = self.objects.create(key, keys.canonical(version))
            if not fresh and (held := self.objects.read(key)):
                self.objects.replace(key, held.data)  # makes the pointer young, so that collection keeps the version
        self.leases.release(entry.sha256 for entry in manifest.files)  # held since `add_folder`
        return fresh

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest; see `stored_manifest`."""
        return self.stored_manifest(digest).manifest

    def stored_manifest(self, digest: str) -> StoredManifest:
        """Return a manifest and its bytes, checked against its digest.

        Raises:
            NotFound: the store holds no such manifest.
            LayoutTooNew: a newer release wrote the manifest in a layout that this release does not know.
            VerificationError: the bytes do not match the digest, or are not a manifest.
        """
        held = self.objects.read(layout.manifest_key(digest))
        if held is None:
            raise NotFound(f"manifest {digest}: not in {self.uri}")
        if hashlib.sha256(held.data).hexdigest() != digest:
            raise VerificationError(f"manifest {digest}: its bytes do not match the digest")
        return stored.parse_manifest(held.data, f"manifest {digest}")

    def attestation(self, digest: str) -> bytes | None:
        """Return the attestation of a manifest, unchecked, or None if the version is unsigned."""
        held = self.objects.read(layout.attestation_key(digest))
        return held.data if held else None

    def versions(self, model: str, variant: str) -> list[Version]:
        """Return a variant's versions, oldest first, including revoked versions."""
        found = []
        for listed in self.objects.under(layout.versions_folder(model, variant)):
            if held := self.objects.read(listed.key):
                found.append(stored.parse(Version, held.data, f"{self.uri}/{listed.key}", "a version pointer"))
                if found[-1].manifest != digest_in(listed.key):
                    raise VerificationError(f"{self.uri}/{listed.key}: it leads to version {found[-1].manifest}")
        return sorted(found, key=lambda version: (version.provenance.made_at, version.manifest))

    def add_record(self, model: str, variant: str, digest: str, kind: str, value: dict[str, Any]) -> SideRecord:
        """Write a side record of a version; see `side_records.add`."""
        return side_records.add(self.objects, model, variant, digest, kind, value)

    def records(self, model: str, variant: str, digest: str) -> tuple[SideRecord, ...]:
        """Return a version's side records by kind and number; see `side_records.read`."""
        return side_records.read(self.objects, model, variant, digest)

    def revoke(self, model: str, variant: str, revocation: Revocation) -> bool:
        """Revoke a version for good; return False if it was revoked before."""
        key = layout.revocation_key(model, variant, revocation.manifest)
        return self.objects.create(key, keys.canonical(revocation))

    def revocation(self, model: str, variant: str, digest: str) -> Revocation | None:
        """Return the revocation of a version, or None if it was not revoked.

        Raises:
            VerificationError: the record is damaged, so whether the version was revoked is unknown.
        """
        key = layout.revocation_key(model, variant, digest)
        held = self.objects.read(key)
        return stored.parse(Revocation, held.data, f"{self.uri}/{key}", "a revocation") if held else None

    def revoked(self, model: str) -> list[tuple[str, str]]:
        """Return variant and digest of every revoked version of a model."""
        keys_below = (listed.key for listed in self.objects.under(f"{layout.MODELS}{model}/"))
        return [(key.split("/")[2], digest_in(key)) for key in keys_below if key.split("/")[3:4] == ["revoked"]]

    def variants(self, model: str) -> list[str]:
        """Return a model's published variants, by name.

        Raises:
            NotFound: there is no such model; the message lists the models.
        """
        folder = layout.model_folder(model)
        if folder and (found := self._published(folder).get(model)):  # lists only this model
            return found
        raise NotFound(f"{model}: not in {self.uri}; it holds {', '.join(self.models()) or 'nothing'}")

    def models(self) -> dict[str, list[str]]:
        """Return every published model with its variants, by name."""
        return self._published(layout.MODELS)

    def published(self, folder: str = layout.MODELS) -> list[tuple[str, str, str]]:
        """Return model, variant and digest of every published version, by one listing."""
        parts = [listed.key.split("/") for listed in self.objects.under(folder)]
        return [(part[1], part[2], digest_in(part[4])) for part in parts if len(part) == 5 and part[3] == "versions"]

    def _published(self, folder: str) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for model, variant, _ in self.published(folder):
            if variant not in held.setdefault(model, []):
                held[model].append(variant)
        return held

    def _keep(self, entry: FileEntry, path: Path) -> None:
        if self._cache:
            self._cache.add(blob_key(entry.sha256), path, entry.sha256)

    def _require(self, entry: FileEntry) -> None:
        """Raise unless the store holds the blob intact; a damaged blob is removed."""
        key = blob_key(entry.sha256)
        if not self.objects.intact(key, entry):
            if not self.has_blob(entry):
                raise BlobMissing(f"{entry.path}: blob {entry.sha256} is not in {self.uri}")
            self.objects.delete(key)  # the next run stores the blob again
            raise VerificationError(f"{entry.path}: the bytes in {self.uri} were not those of {entry.sha256}; dropped")

    def _put(self, key: str, data: bytes) -> None:
        """Write an immutable record; an existing record with other bytes is damaged and is replaced."""
        if not self.objects.create(key, data) and (held := self.objects.read(key)) and held.data != data:
            self.objects.replace(key, data)
