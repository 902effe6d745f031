"""Removes environments that nothing uses: those of other locks than today's, and those that were left half made."""

import re
import time
from pathlib import Path

from quantmill.machine import locks
from tasks.environments.described import names
from tasks.environments.made import RECORD, lock_of, place_of, remove, size_bytes

_PLACE = re.compile(r".+-[0-9a-f]{12}")


def collect(root: Path, unused_s: float, dry_run: bool) -> list[tuple[str, int]]:
    """Remove unused environments under `root`; return the name of each folder and its bytes.

    An environment of today's lock stays. One of another lock stays while a job used it in the last `unused_s` seconds: a shared
    folder serves checkouts with other locks. A half-made one that no process works on goes at once.
    """
    if not root.is_dir():
        return []
    current, found = {place_of(name, root) for name in names()}, list[tuple[str, int]]()
    for place in sorted(root.iterdir()):
        if not _PLACE.fullmatch(place.name) or not lock_of(place).is_file():
            continue  # not made here
        try:
            with locks.held(lock_of(place), wait=False):
                if _is_unused(place, place in current, unused_s):
                    found.append((place.name, size_bytes(place)))
                    if not dry_run:
                        remove(place)
        except BlockingIOError:
            continue  # a process makes it
    return found


def _is_unused(place: Path, current: bool, unused_s: float) -> bool:
    try:
        used = (place / RECORD).stat().st_mtime
    except FileNotFoundError:
        return True
    return not current and used < time.time() - unused_s
