"""Objects in a folder: bytes are linked into place; records are written beside, synced, then linked or renamed."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantmill import keys
from quantmill.errors import BlobMissing, VerificationError
from quantmill.files import FileEntry, safe_path, sync
from quantmill.store.objects import RECORD_BYTES, Held, Listed, OnBytes, ignore

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")


class FolderObjects:
    """`Objects` on a disk with POSIX semantics. Nothing is created before the first write."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`."""
        self._root = root.absolute()

    @property
    def uri(self) -> str:
        """Where it lies."""
        return str(self._root)

    def size(self, key: str) -> int | None:
        """Return the object's length, or None where there is none."""
        try:
            state = self._path(key).lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(state.st_mode):
            raise VerificationError(f"{self.uri}/{key}: not a plain file")
        return state.st_size

    def read(self, key: str) -> Held | None:
        """Return a small object; its tag is its digest."""
        size = self.size(key)  # refuses what would lead elsewhere, or never end
        if size is None:
            return None
        if size > RECORD_BYTES:
            raise VerificationError(f"{self.uri}/{key}: {size} bytes; a record has at most {RECORD_BYTES}")
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        return Held(data, hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> bool:
        """Write an object whole or not at all; False where it exists. The link is what only one writer wins."""
        path = self._path(key)
        temporary = _write_beside(path, data)
        try:
            os.link(temporary, path)
            sync(path.parent)
            return True
        except FileExistsError:
            return False
        finally:
            temporary.unlink()

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        path = self._path(key)
        _write_beside(path, data).replace(path)
        sync(path.parent)

    def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Replace the object that was read with `tag`. A lock that dies with its holder keeps others out meanwhile."""
        with self._alone():
            held = self.read(key)
            if held is None or held.tag != tag:
                return False
            self.replace(key, data)
            return True

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._path(key).unlink(missing_ok=True)

    def under(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects below a folder, by key; what a writer has not finished is none."""
        for path in sorted((self._root / safe_path(prefix.rstrip("/"))).rglob("*")):
            with suppress(FileNotFoundError):  # removed since
                if path.is_file() and not path.name.startswith("."):
                    yield _listed(path, self._root)

    def unfinished(self) -> Iterator[Listed]:
        """Yield the files that were to be renamed or linked."""
        for path in sorted(self._root.rglob(".*")):
            with suppress(FileNotFoundError):
                if _TEMPORARY.fullmatch(path.name) and path.is_file():
                    yield _listed(path, self._root)

    def drop_unfinished(self, left: Listed) -> None:
        """Remove such a file."""
        self._path(left.key).unlink(missing_ok=True)

    def add_file(self, key: str, path: Path, sha256: str, on_bytes: OnBytes = ignore) -> None:
        """Link a file into place, or copy it where the disks differ, and make it read-only."""
        target = self._path(key)
        size = path.stat().st_size
        if self.size(key) != size:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
            try:
                if not _link(path, temporary):
                    _copy(path, temporary, sha256)
                sync(temporary)
                temporary.chmod(0o444)
                temporary.replace(target)  # equal bytes under an equal name: whoever comes last changes nothing
            finally:
                temporary.unlink(missing_ok=True)
            sync(target.parent)
        else:
            with suppress(PermissionError):  # another user's
                os.utime(target)  # a blob that is used again is a young one: garbage collection leaves it alone
        on_bytes(size)

    def intact(self, key: str, entry: FileEntry) -> bool:
        """Return whether the object's bytes are the entry's: they are read and hashed."""
        return self.size(key) == entry.size_bytes and keys.file_sha256(self._path(key)) == entry.sha256

    def fetch_file(
        self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = False
    ) -> None:
        """Lay an object out at `target` as a link, or as a copy where one is asked for or the disks differ."""
        if self.size(key) is None:
            raise BlobMissing(f"{entry.path}: blob {entry.sha256} is not in {self._root}")
        if not self.intact(key, entry):
            raise VerificationError(f"{entry.path}: the bytes in {self._root} are not those of {entry.sha256}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # never written through: it may be a link to a blob
        if copy or not _link(self._path(key), target):
            temporary = target.with_name(f".{target.name}.part")  # one name: what kills leave does not pile up
            _copy(self._path(key), temporary, entry.sha256)
            temporary.replace(target)
        on_bytes(entry.size_bytes)

    def _path(self, key: str) -> Path:
        return self._root / safe_path(key)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".swap.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _listed(path: Path, root: Path) -> Listed:
    state = path.stat()
    changed = max(state.st_mtime, state.st_ctime)  # a link has the first time of the file that it was made from
    return Listed(path.relative_to(root).as_posix(), state.st_size, changed)


def _link(source: Path, target: Path) -> bool:
    """Return whether a link could be made: not to another disk, nor on a file system without links."""
    try:
        os.link(source, target)
        return True
    except OSError:
        return False


def _copy(source: Path, target: Path, sha256: str) -> None:
    shutil.copyfile(source, target)
    if keys.file_sha256(target) != sha256:
        target.unlink()
        raise VerificationError(f"{source}: the copy at {target} is not what was read")
    sync(target)


def _write_beside(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)  # a disk that is full is not made fuller
        raise
    return temporary
