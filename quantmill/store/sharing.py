"""Shares a store's folder among users: new files and folders take its mode and group, not the umask's.

    mkdir STORE; chgrp GROUP STORE; chmod 2770 STORE

In the same way everything below a private folder stays private.
"""

import ctypes
import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from quantmill.errors import QuantmillError, StoreError
from quantmill.files.paths import sync
from quantmill.machine import disk

_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_NO_REPLACE = 1  # RENAME_NOREPLACE of renameat2(2)


class Sharing:
    """Gives new files and folders the mode and group of the store's folder."""

    def __init__(self, root: Path) -> None:
        """Take the store's folder, which need not exist yet."""
        self._root = root

    def make(self, folder: Path) -> None:
        """Make a folder in the store, and its parents; each appears with its mode and group, or not at all."""
        if folder.is_dir():
            return
        self._root.mkdir(parents=True, exist_ok=True)
        place = self._root
        for part in folder.relative_to(self._root).parts:
            place = place / part
            if not place.is_dir():
                self._make(place)

    def give(self, path: Path, *, executable: bool = False) -> None:
        """Give a new file, or a folder (`executable`), the mode and group of the store's folder.

        Raises:
            StoreError: this user is not in the group, and the mode lets only the group read.
        """
        of = self._root.stat()
        mode = stat.S_IMODE(of.st_mode) & ~stat.S_ISUID if executable else of.st_mode & 0o666
        made = path.lstat()
        owner = (
            of.st_uid if os.geteuid() == 0 else made.st_uid
        )  # root's files belong to the store's owner, who must read them
        if (made.st_uid, made.st_gid) != (owner, of.st_gid):
            try:
                os.chown(path, owner, of.st_gid)
            except PermissionError as error:
                if (mode >> 3) & ~mode & 0o7:
                    raise StoreError(
                        f"{self._root}: its group ({of.st_gid}) is none of this user's, and other users could not read "
                        f"this user's files there; add the user to the group, or: chmod g+s {self._root}"
                    ) from error
            made = path.lstat()
        if stat.S_IMODE(made.st_mode) != mode:
            with suppress(PermissionError):  # some file systems fix all modes at the mount
                path.chmod(mode)

    def told(self, error: OSError) -> QuantmillError:
        """Return an OSError as an error of Quantmill.

        A full disk becomes DiskFull; a permission error states the commands that let users share the store.
        """
        if disk.is_full(error):
            return disk.disk_full(self._root)
        name = Path(os.fsdecode(error.filename2 or error.filename or self._root))
        line = f"{name}: {error.strerror or error}"
        if not isinstance(error, PermissionError) or not name.is_relative_to(self._root):
            return StoreError(line)
        return StoreError(
            f"{line}; users share a store by the mode and group of its folder, which its owner sets: "
            f"chgrp -R GROUP {self._root}; chmod -R g+rX {self._root}; find {self._root} -type d -exec chmod g+ws {{}} +"
        )

    def _make(self, place: Path) -> None:
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
        temporary.mkdir()
        try:
            self.give(temporary, executable=True)
            _rename_to_new(temporary, place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # EEXIST, ENOTEMPTY: another process made the folder
                raise
        finally:
            with suppress(OSError):
                temporary.rmdir()
        sync(place.parent)


def _rename_to_new(folder: Path, place: Path) -> None:
    """Rename a folder to a new name; if the system supports renameat2, never replace a folder.

    A plain rename would replace an empty folder; a process about to create a file in it would then fail with ENOENT.

    Raises:
        OSError: EEXIST or ENOTEMPTY if the name exists.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 and renameat2(_HERE, os.fsencode(folder), _HERE, os.fsencode(place), _NO_REPLACE) == 0:
        return
    code = ctypes.get_errno() if renameat2 else errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL):  # the system or the file system lacks renameat2
        raise OSError(code, os.strerror(code), str(folder), None, str(place))
    folder.rename(place)
