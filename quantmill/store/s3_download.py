"""Downloads in parallel ranges into a partial file, which is renamed after its sha256 is checked.

A notes file beside the partial file has one byte for each finished range, so that a killed download can resume. The notes are
only a hint: the whole file is hashed in any case, from its start, as ranges arrive.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantmill.errors import StoreError
from quantmill.files.entries import FileEntry
from quantmill.files.paths import sync
from quantmill.store.objects import OnBytes
from quantmill.store.s3_parts import PART_BYTES, Parts

_PIECE_BYTES = 1 << 20
_SILENT_TRIES = 5


class Download:
    """The download of one object to one file."""

    def __init__(self, client: Any, at: dict[str, str], parts: Parts, entry: FileEntry, target: Path) -> None:
        """Fetch from bucket and key in `at`, which also holds the ETag (`IfMatch`) of every range."""
        self._client, self._at, self._parts, self._target = client, at, parts, target
        self._size, self._sha256 = entry.size_bytes, entry.sha256
        self._partial = target.with_name(f".{target.name}.{entry.sha256[:16]}.part")
        self._notes = self._partial.with_suffix(".done")

    def run(self, on_bytes: OnBytes) -> bool:
        """Fetch the missing ranges and rename the file to its target.

        Returns False, and removes the partial file, if the bytes do not match the digest.

        Raises:
            StoreError: the store kept breaking off without sending any byte.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as (file, notes):
            if self._fill(file, notes, on_bytes) == self._sha256:
                os.fsync(file)
                self._partial.replace(self._target)
                self._notes.unlink()
                sync(self._target.parent)
                return True
            self._partial.unlink()
            self._notes.unlink()
            return False

    @contextmanager
    def _open(self) -> Iterator[tuple[int, int]]:
        """Lend the partial file and its notes, to one process at a time."""
        notes = os.open(self._notes, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(notes, fcntl.LOCK_EX)
            if not self._partial.exists():
                os.ftruncate(notes, 0)
            file = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.ftruncate(file, self._size)
                yield file, notes
            finally:
                os.close(file)
        finally:
            os.close(notes)

    def _fill(self, file: int, notes: int, on_bytes: OnBytes) -> str:
        """Fetch the missing ranges and return the sha256 of the whole file, hashed as ranges arrive."""
        count = -(-self._size // PART_BYTES)
        there = os.pread(notes, count, 0).ljust(count, b"\0")
        state, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
        futures: list[Future[None] | None] = [
            None if there[index] else self._parts.pool.submit(self._fetch, file, notes, index, on_bytes)
            for index in range(count)
        ]
        try:
            for index, future in enumerate(futures):
                start, end = self._range(index)
                if future:
                    future.result()
                else:
                    on_bytes(end - start)
                for place in range(start, end, _PIECE_BYTES):
                    state.update(buffer[: os.preadv(file, [buffer[: end - place]], place)])
                os.posix_fadvise(
                    file, start, end - start, os.POSIX_FADV_DONTNEED
                )  # starts the write to the disk, so that fsync waits less
        finally:
            for future in futures:
                if future and not future.cancel():
                    future.exception()  # waits, because the file is closed next
        return state.hexdigest()

    def _fetch(self, file: int, notes: int, index: int, on_bytes: OnBytes) -> None:
        """Fetch one range; after a broken connection, fetch only the missing bytes."""
        from botocore import exceptions

        start, end = self._range(index)
        silent = 0
        while start < end:
            before = start
            try:
                body = self._client.get_object(**self._at, Range=f"bytes={start}-{end - 1}")["Body"]
                while piece := body.read(min(_PIECE_BYTES, end - start)):
                    os.pwrite(file, piece, start)
                    start += len(piece)
                    on_bytes(len(piece))
            except (exceptions.IncompleteReadError, exceptions.HTTPClientError) as error:
                if start == before and silent == _SILENT_TRIES - 1:
                    raise StoreError(f"{self._target.name}: the store broke off {_SILENT_TRIES} times") from error
            silent = 0 if start > before else silent + 1
            if silent:
                time.sleep(0.1 * 2**silent)
        os.pwrite(notes, b"\1", index)

    def _range(self, index: int) -> tuple[int, int]:
        return index * PART_BYTES, min(self._size, (index + 1) * PART_BYTES)
