"""Full disks: told apart from other errors, in one line with the place and what is free there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantmill.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full")  # engines and SQLite pass on words
_LITTLE_BYTES = 1 << 20


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that a disk or a quota is full."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _FULL or any(word in str(error).lower() for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def has_no_room(place: Path) -> bool:
    """Return whether less than 1 MiB is free where `place` is: what failed there for no stated reason failed for this one."""
    try:
        state = _state(place)
        return state.f_bavail * state.f_frsize < _LITTLE_BYTES
    except OSError:
        return False


def disk_full(place: Path, what: str = "") -> DiskFull:
    """Return the error that says that the disk with `place` is full; `what` says which work ended by it."""
    try:
        state = _state(place)
    except OSError:
        return DiskFull(f"{place}: the disk is full{what and f'; {what}'}")
    free = state.f_bavail * state.f_frsize
    left = f"{free:,} bytes free"
    if free >= _LITTLE_BYTES:  # a quota, or a file system that has no more inodes
        left += f", {state.f_favail:,} files" if state.f_files else ""
        left += "; if that is enough, a quota is used up" if state.f_favail or not state.f_files else ""
    return DiskFull(f"{place}: the disk is full ({left}){what and f'; {what}'}")


@contextmanager
def room_at(place: Path) -> Iterator[None]:
    """Raise DiskFull, naming `place`, for an OSError of the block that says so; other errors pass."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(place) from error


def _state(place: Path) -> os.statvfs_result:
    """Return the figures of the disk with `place`, which need not exist."""
    place = place.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return os.statvfs(place)
