"""The protocol of a store's backend: it keeps objects by key, and of several writers only one wins.

A folder and a bucket implement these few operations; `store.py` builds the guarantees of a store on them. A key is a plain
relative path. An object is whole or absent: no reader sees a half-written object.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from quantmill.errors import StoreError, VerificationError
from quantmill.files.entries import FileEntry

_MARKS = 200_000  # brackets and commas: the errors about millions of parts would take gigabytes
_READS = 10
OnBytes = Callable[[int], None]
"""Called with the number of bytes that moved since the last call."""

RECORD_BYTES = 64 << 20
"""The longest record that is read into memory."""


class Held(NamedTuple):
    """The bytes of a small object, and the tag of this state for `swap`."""

    data: bytes
    tag: str


class Listed(NamedTuple):
    """An object of a listing."""

    key: str
    size_bytes: int
    modified_at: float
    """Seconds since 1970, by the backend's clock."""


def require_modest(data: bytes, where: str) -> bytes:
    """Return the bytes of a record; raise VerificationError if they have too many parts to parse."""
    if sum(map(data.count, (b"[", b"{", b","))) > _MARKS:
        raise VerificationError(f"{where}: a record has at most {_MARKS} brackets and commas")
    return data


def read_listed(objects: "Objects", key: str) -> Held | None:
    """Return an object from a listing, or None if it was removed since.

    Raises:
        StoreError: the object is still listed but cannot be read.
    """
    for attempt in range(_READS):  # a lease may be removed and written again under the same name
        if held := objects.read(key):
            return held
        if all(listed.key != key for listed in objects.under(key.rpartition("/")[0] + "/")):
            return None
        time.sleep(random.uniform(0, 0.02 * (attempt + 1)))
    raise StoreError(f"{objects.uri}/{key}: is listed, but cannot be read")


def ignore(_moved: int) -> None:
    """Ignore the number of bytes: the default `on_bytes`."""


class Objects(Protocol):
    """A backend that keeps objects; every method raises StoreError if the backend does not answer."""

    @property
    def uri(self) -> str:
        """The backend's address: a path, or s3://bucket/prefix."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's length, or None if there is no object."""
        ...

    def read(self, key: str) -> Held | None:
        """Return a small object, or None if there is none."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object; return False if the key exists. Of several writers one wins."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, or replace it."""
        ...

    def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Replace the object that was read with `tag`; return False if the object has changed or is gone."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        ...

    def under(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose keys start with `prefix`, a folder's name with its slash, by key."""
        ...

    def unfinished(self) -> Iterator[Listed]:
        """Yield what killed writers left: bytes without a key, listed under keys for `drop_unfinished`."""
        ...

    def drop_unfinished(self, left: Listed) -> None:
        """Remove an entry of `unfinished`; a missing entry is no error."""
        ...

    def release_reserve(self) -> bool:
        """Free the bytes that are reserved for a collection on a full disk; return False if there are none."""
        ...

    def keep_reserve(self) -> None:
        """Reserve some bytes for a collection on a full disk, if the backend can run full and has room."""
        ...

    def add_file(self, key: str, path: Path, sha256: str, on_bytes: OnBytes = ignore) -> None:
        """Write a file of any size with a known digest; an object with the same bytes stays.

        Raises:
            VerificationError: the bytes that arrived do not match `sha256`; nothing is left under `key`.
        """
        ...

    def intact(self, key: str, entry: FileEntry) -> bool:
        """Return whether the object matches the entry, as far as the backend can tell without a download."""
        ...

    def fetch_file(
        self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = False
    ) -> None:
        """Put an object at `target`, whole and checked; resumes what a killed attempt left beside `target`.

        The file may be a read-only hard link, unless `copy` is set.

        Raises:
            BlobMissing: there is no such object.
            VerificationError: the object's bytes do not match the entry.
        """
        ...
