"""Blobs that a bucket's store sent or fetched lately, on this disk: what one stage made, the next need not download."""

from contextlib import suppress
from pathlib import Path

from quantmill.errors import BlobMissing, DiskFull, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.store.folder import FolderObjects
from quantmill.store.objects import OnBytes


class BlobCache:
    """A folder of blobs with a limit; the oldest go first. Losing it costs downloads only."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Use `folder`; nothing is created before the first blob."""
        self._objects, self._limit = FolderObjects(folder), limit_bytes

    def add(self, key: str, path: Path, sha256: str) -> None:
        """Keep a file whose digest is known, as a link where the disk allows it."""
        if path.stat().st_size <= self._limit:
            with suppress(DiskFull):
                self._objects.add_file(key, path, sha256)
                self._trim()

    def fetch(self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes) -> bool:
        """Lay a blob out, checked; False where it is not held, or no longer whole."""
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
