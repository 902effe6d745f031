"""Objects in a folder: files are hard-linked; records are temporary files, then linked or renamed.

The store's folder may be a symbolic link. Links below it are refused: a listing that skipped a link would hide its target.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantmill.errors import BlobMissing, DiskFull, StoreError, VerificationError
from quantmill.files import keys, walk
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path, sync
from quantmill.machine import disk, locks
from quantmill.store.layout import FOLDERS
from quantmill.store.objects import RECORD_BYTES, Held, Listed, OnBytes, ignore
from quantmill.store.placing import close, copy_checked, link
from quantmill.store.sharing import Sharing

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")
_LOCK, _RESERVE = ".swap.lock", "reserve"
_RESERVE_BYTES = 1 << 16


class FolderObjects:
    """`Objects` in a folder with POSIX semantics; the first write creates the folder."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`."""
        self._root = root.absolute()
        self._sharing = Sharing(self._root)

    @property
    def uri(self) -> str:
        """The absolute path of the folder."""
        return str(self._root)

    def size(self, key: str) -> int | None:
        """Return the object's length, or None if there is no object."""
        try:
            with self._telling():
                state = self._path(key).lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(state.st_mode):
            raise VerificationError(f"{self.uri}/{key}: not a plain file")
        return state.st_size

    def read(self, key: str) -> Held | None:
        """Return a small object, or None; its tag is its digest."""
        size = self.size(key)  # refuses links and devices
        if size is None:
            return None
        if size > RECORD_BYTES:
            raise VerificationError(f"{self.uri}/{key}: {size} bytes; a record has at most {RECORD_BYTES}")
        try:
            with self._telling():
                data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        return Held(data, hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object atomically; return False if it exists. Only one writer can make the link."""
        with self._telling(), self._written_beside(self._path(key), data) as temporary:
            try:
                os.link(temporary, self._path(key))
            except FileExistsError:
                return False
            sync(temporary.parent)
        self.keep_reserve()
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, or replace it."""
        with self._telling(), self._written_beside(self._path(key), data) as temporary:
            temporary.replace(self._path(key))
            sync(temporary.parent)
        self.keep_reserve()

    def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Replace the object that was read with `tag`, under a lock; return False if the object has changed."""
        with self._alone():
            held = self.read(key)
            if held is None or held.tag != tag:
                return False
            self.replace(key, data)
            return True

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        with self._telling():
            self._path(key).unlink(missing_ok=True)

    def under(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects below a folder, by key, without unfinished writes.

        Raises:
            StoreError: a folder cannot be read, so its objects would count as absent.
            VerificationError: a path is neither a file nor a folder, for example a link.
        """
        found = self._files(safe_path(prefix.rstrip("/")))
        return (self._listed(path, state) for path, state in found if not path.name.startswith("."))

    def unfinished(self) -> Iterator[Listed]:
        """Yield the temporary files that were not renamed or linked."""
        with self._telling():
            beside = sorted(self._root.iterdir()) if self._root.exists() else []
        found = [(path, path.lstat()) for path in beside if _TEMPORARY.fullmatch(path.name) and path.is_file()]
        for folder in FOLDERS:
            found += [(path, state) for path, state in self._files(folder) if _TEMPORARY.fullmatch(path.name)]
        return (self._listed(path, state) for path, state in found)

    def drop_unfinished(self, left: Listed) -> None:
        """Remove a temporary file."""
        self.delete(left.key)

    def release_reserve(self) -> bool:
        """Remove the reserve, which frees bytes on a full disk; return False if there is none."""
        held = bool(self.size(_RESERVE))
        self.delete(_RESERVE)
        return held

    def keep_reserve(self) -> None:
        """Write the reserve, 64 KiB that a collection can free, if there is room."""
        if self.size(_RESERVE) is None and self._root.exists():
            data = os.urandom(_RESERVE_BYTES)  # random bytes, which no file system can compress
            with suppress(DiskFull), self._telling(), self._written_beside(self._path(_RESERVE), data) as temporary:
                temporary.replace(self._path(_RESERVE))

    def add_file(self, key: str, path: Path, sha256: str, on_bytes: OnBytes = ignore) -> None:
        """Add a file as a hard link, or as a copy if the disks differ, and make it read-only."""
        target = self._path(key)
        size = path.stat().st_size
        if self.size(key) != size:
            with self._telling():
                self._sharing.make(target.parent)
                temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
                try:
                    if not (link(path, temporary) and close(temporary)):
                        temporary.unlink(missing_ok=True)
                        copy_checked(path, temporary, sha256)
                        temporary.chmod(0o444)
                    sync(temporary)
                    temporary.replace(target)  # the name is the digest: another writer's file has the same bytes
                finally:
                    temporary.unlink(missing_ok=True)
                sync(target.parent)
        else:
            with suppress(PermissionError):  # the file of another user
                os.utime(target)  # garbage collection keeps young blobs
        on_bytes(size)

    def intact(self, key: str, entry: FileEntry) -> bool:
        """Return whether the object's bytes match the entry; reads and hashes all bytes."""
        with self._telling():
            return self.size(key) == entry.size_bytes and keys.file_sha256(self._path(key)) == entry.sha256

    def fetch_file(
        self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = False
    ) -> None:
        """Put an object at `target`: a hard link, or a copy if asked for or if the disks differ."""
        if self.size(key) is None:
            raise BlobMissing(f"{entry.path}: blob {entry.sha256} is not in {self._root}")
        if not self.intact(key, entry):
            raise VerificationError(f"{entry.path}: the bytes in {self._root} are not those of {entry.sha256}")
        with disk.room_at(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # never written in place: it may be a link to a blob
            if copy or not link(self._path(key), target):
                temporary = target.with_name(
                    f".{target.name}.part"
                )  # a fixed name: rests of killed attempts do not pile up
                copy_checked(self._path(key), temporary, entry.sha256)
                temporary.replace(target)
        on_bytes(entry.size_bytes)

    def _path(self, key: str) -> Path:
        return self._root / safe_path(key)

    def _files(self, name: str) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the files below a folder of the store, by path; anything but files and folders is refused."""
        with self._telling():
            if self._root.is_symlink() and not self._root.exists():
                raise StoreError(f"{self._root}: a link that leads nowhere")
            place = self._root
            try:
                for part in Path(name).parts:
                    place = place / part
                    if not stat.S_ISDIR((state := place.lstat()).st_mode):
                        raise _refused(place, state)
            except FileNotFoundError:
                return
            try:
                for path, state in walk.below(place, passing=_TEMPORARY):
                    if stat.S_ISREG(state.st_mode):
                        yield path, state
                    elif not stat.S_ISDIR(state.st_mode):
                        raise _refused(path, state)
            except FileNotFoundError as error:
                raise StoreError(f"{error.filename}: was removed during the listing; try again") from error

    def _listed(self, path: Path, state: os.stat_result) -> Listed:
        changed = max(state.st_mtime, state.st_ctime)  # a hard link keeps the mtime of its source
        return Listed(path.relative_to(self._root).as_posix(), state.st_size, changed)

    @contextmanager
    def _written_beside(self, path: Path, data: bytes) -> Iterator[Path]:
        """Lend a synced temporary file with the bytes beside `path`; it is removed at the end."""
        self._sharing.make(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._sharing.give(temporary)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)  # also on a full disk

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self.size(_LOCK) is None:
            self.create(_LOCK, b"")
        with self._telling(), locks.held(self._path(_LOCK)):
            yield

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn an OSError into an error of Quantmill; FileNotFoundError passes."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._sharing.told(error) from error


def _refused(path: Path, state: os.stat_result) -> VerificationError:
    if stat.S_ISLNK(state.st_mode):
        return VerificationError(
            f"{path}: not a plain file or folder but a link, and a store follows no links: move or mount the target here"
        )
    return VerificationError(f"{path}: not a plain file or folder")
