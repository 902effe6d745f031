"""Full disks: recognized among other errors and reported in one line with the path and the free bytes."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantmill.errors import DiskFull, QuantmillError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = (
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
)  # engines and SQLite report a text, not an errno
_LITTLE_BYTES = 1 << 20


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that a disk or a quota is full."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _FULL or any(word in str(error).lower() for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def has_no_room(place: Path) -> bool:
    """Return whether the disk of `place` has less than 1 MiB free.

    A full disk is then taken as the reason for an error that states no reason.
    """
    try:
        state = _state(place)
        return state.f_bavail * state.f_frsize < _LITTLE_BYTES
    except OSError:
        return False


def disk_full(place: Path, what: str = "") -> DiskFull:
    """Return the error that says that the disk of `place` ran full; `what` names the failed work.

    The message may state many free bytes, because half-written files have been removed by now.
    """
    with suppress(OSError):
        state = _state(place)
        files = ", but no further file can be made" if state.f_files and not state.f_favail else ""
        left = f" ({state.f_bavail * state.f_frsize:,} bytes free now{files})"
        return DiskFull(f"{place}: the disk ran full{left}{what and f'; {what}'}")
    return DiskFull(f"{place}: the disk ran full{what and f'; {what}'}")


def told(error: BaseException, otherwise: Path, what: str = "") -> DiskFull:
    """Return the DiskFull for another error, with the path that the error names, else `otherwise`."""
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if getattr(error, "errno", None) == errno.EDQUOT:
        what = f"the user's quota is used up{what and f'; {what}'}"
    return disk_full(Path(os.fsdecode(named)) if isinstance(named, str | bytes) else otherwise, what)


@contextmanager
def blamed(place: Path) -> Iterator[None]:
    """Raise DiskFull for an error in the block if the error says so or the disk of `place` is full.

    A QuantmillError passes unchanged. Databases, servers and engines seldom report a full disk as such.
    """
    try:
        yield
    except QuantmillError:
        raise
    except Exception as error:
        if not is_full(error) and not has_no_room(place):
            raise
        raise told(error, place, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def room_at(place: Path) -> Iterator[None]:
    """Raise DiskFull with `place` for an OSError in the block that reports a full disk; others pass."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(place) from error


def _state(place: Path) -> os.statvfs_result:
    """Return the `statvfs` of the disk of `place`, which need not exist."""
    place = place.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return os.statvfs(place)
