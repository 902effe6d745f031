"""What every store does, whatever it lies on.

    blobs/sha256/ab/<hex>                                    immutable
    stages/<stage>/<key>.json                                the cache: replaceable once a blob of it is missing, expiring
    manifests/sha256/<hex>.json                              immutable
    attestations/<manifest-hex>.dsse.json                    immutable (signing)
    models/<model>/<variant>/versions/<manifest-hex>.json    the commit point of a publish: create-only
    models/<model>/channels/<channel>.json                   compare-and-swap (channels)
    leases/<key>.json                                        keeps a publish in progress from garbage collection

Order of a publish: blobs (already when a stage result is made), manifest, attestation, version, then whoever announces it.
A reader starts from a version or a channel, so whatever comes earlier is invisible to it.
"""

from pathlib import Path
from typing import Protocol

from quantmill.artifact import StageResult
from quantmill.files import FileEntry
from quantmill.manifest import Manifest, Version


class Store(Protocol):
    """Blobs by sha256, stage results, manifests and versions. Safe with several writers; create-only writes decide races."""

    @property
    def uri(self) -> str:
        """Where it lies."""
        ...

    def has_blob(self, entry: FileEntry) -> bool:
        """Return whether the blob is there with the entry's size."""
        ...

    def add_folder(self, folder: Path) -> tuple[FileEntry, ...]:
        """Store every file below `folder` and return their entries by path; on the same disk a link, no copy.

        Raises:
            StoreError: the folder holds something that is not a plain file.
        """
        ...

    def fetch(self, entries: tuple[FileEntry, ...], folder: Path) -> None:
        """Lay the files out in `folder`; on the same disk as links. They are for reading only.

        Raises:
            BlobMissing: a blob is gone.
            VerificationError: its bytes are not what the digest says; it counts as missing from now on.
        """
        ...

    def look_up(self, stage: str, key: str) -> StageResult | None:
        """Return a stage's result if it has not expired and every blob that it names is there."""
        ...

    def record(self, result: StageResult) -> StageResult:
        """Write a stage result and return the one in force: the first that is complete wins, a later one is dropped."""
        ...

    def commit(self, manifest: Manifest, version: Version) -> bool:
        """Publish: the manifest, then its version pointer. Returns False where that version was there already.

        Raises:
            BlobMissing: a file of the manifest is not in the store.
            VerificationError: its bytes are not what the manifest says; nothing is published.
        """
        ...

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest, checked against its digest.

        Raises:
            NotFound: there is none.
            VerificationError: its bytes are not what the digest says.
        """
        ...

    def versions(self, model: str, variant: str) -> list[Version]:
        """Return a variant's versions, oldest first."""
        ...

    def models(self) -> dict[str, list[str]]:
        """Return every published model with its variants, by name."""
        ...
