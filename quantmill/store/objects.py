"""What a place must do for a store to lie on it: keep objects by key, and let only one of several writers win.

A folder and a bucket do the same few things, and everything that a store promises is built on them once, in `store.py`.
A key is a plain relative path. An object is whole or absent: no reader sees one half written.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from quantmill.errors import StoreError, VerificationError
from quantmill.files.entries import FileEntry

_MARKS = 200_000  # brackets and commas: what is wrong with each of millions of parts takes gigabytes to say
_READS = 10
OnBytes = Callable[[int], None]
"""Called with the number of bytes that moved since the last call."""

RECORD_BYTES = 64 << 20
"""No record is longer: what is read whole into memory has a limit."""


class Held(NamedTuple):
    """A small object that was read, with what `swap` needs to replace just this state of it."""

    data: bytes
    tag: str


class Listed(NamedTuple):
    """An object of a listing."""

    key: str
    size_bytes: int
    modified_at: float
    """Seconds since 1970, by the clock of the place."""


def require_modest(data: bytes, where: str) -> bytes:
    """Return a record that is about to be parsed, or raise VerificationError where it has more parts than one may."""
    if sum(map(data.count, (b"[", b"{", b","))) > _MARKS:
        raise VerificationError(f"{where}: a record has at most {_MARKS} brackets and commas")
    return data


def read_listed(objects: "Objects", key: str) -> Held | None:
    """Return an object that a listing named, or None where it was removed since.

    Raises:
        StoreError: it is listed and cannot be read: what it needs is not known.
    """
    for attempt in range(_READS):  # a lease goes and comes back under the same name while its holder works
        if held := objects.read(key):
            return held
        if all(listed.key != key for listed in objects.under(key.rpartition("/")[0] + "/")):
            return None
        time.sleep(random.uniform(0, 0.02 * (attempt + 1)))
    raise StoreError(f"{objects.uri}/{key}: is listed, and is not there when it is read")


def ignore(_moved: int) -> None:
    """Take note of nothing: the default of whoever wants no progress."""


class Objects(Protocol):
    """A place that keeps objects. Every method raises StoreError where the place cannot be reached or does not answer."""

    @property
    def uri(self) -> str:
        """Where it lies."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's length, or None where there is none."""
        ...

    def read(self, key: str) -> Held | None:
        """Return a small object, or None where there is none."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write an object that must not exist yet; False where it does. Of several writers one wins."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        ...

    def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Replace the object that was read with `tag`; False where it is another one by now, or gone."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def under(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose keys start with `prefix`, a folder's name with its slash, by key."""
        ...

    def unfinished(self) -> Iterator[Listed]:
        """Yield what writers that were killed left: bytes under no key. The listed keys are for `drop_unfinished` alone."""
        ...

    def drop_unfinished(self, left: Listed) -> None:
        """Remove such a rest; one that is gone is no error."""
        ...

    def release_reserve(self) -> bool:
        """Give up the room that is kept for a collection on a full disk; False where there is none."""
        ...

    def keep_reserve(self) -> None:
        """Keep some room that a collection can give up, where the place may run full and has so much left."""
        ...

    def add_file(self, key: str, path: Path, sha256: str, on_bytes: OnBytes = ignore) -> None:
        """Write a file of any size, whose digest is known; equal bytes under an equal key change nothing.

        Raises:
            VerificationError: the bytes that arrived are not those of `sha256`; nothing is left under `key`.
        """
        ...

    def intact(self, key: str, entry: FileEntry) -> bool:
        """Return whether the object's bytes are the entry's, as surely as the place can tell without sending them."""
        ...

    def fetch_file(
        self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = False
    ) -> None:
        """Lay an object out at `target`, whole and checked; what a killed attempt left beside it is used.

        Where the disk allows it is a link, for reading only, unless a `copy` is asked for.

        Raises:
            BlobMissing: there is no such object.
            VerificationError: its bytes are not those that the entry names.
        """
        ...
