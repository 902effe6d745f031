"""A cache on this disk for the blobs of a store in a bucket: the next stage need not download them."""

from contextlib import suppress
from pathlib import Path

from quantmill.errors import BlobMissing, DiskFull, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.store.folder import FolderObjects
from quantmill.store.objects import OnBytes


class BlobCache:
    """A folder of blobs with a size limit; the oldest go first. Its loss costs only downloads."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Use `folder`, which is created with the first blob."""
        self._objects, self._limit = FolderObjects(folder), limit_bytes

    def add(self, key: str, path: Path, sha256: str) -> None:
        """Add a file with a known digest to the cache: a hard link if possible, else a copy."""
        if path.stat().st_size <= self._limit:
            with suppress(DiskFull):
                self._objects.add_file(key, path, sha256)
                self._trim()

    def fetch(self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes) -> bool:
        """Put a checked blob at `target`; return False if the cache lacks it or holds it damaged."""
        try:
            self._objects.fetch_file(key, entry, target, on_bytes)
            return True
        except BlobMissing:
            return False
        except VerificationError:
            self._objects.delete(key)
            return False

    def _trim(self) -> None:
        held = sorted(self._objects.under("blobs/"), key=lambda blob: blob.modified_at)
        excess = sum(blob.size_bytes for blob in held) - self._limit
        for blob in held:
            if excess > 0:
                self._objects.delete(blob.key)
                excess -= blob.size_bytes
