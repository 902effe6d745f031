"""Removes unused environments: those of old locks, and those whose creation was interrupted."""

import re
import time
from pathlib import Path

from quantmill.errors import EnvironmentFailed
from quantmill.machine import locks
from tasks.environments.described import names
from tasks.environments.made import RECORD, lock_of, place_of, remove, size_bytes

_PLACE = re.compile(r".+-[0-9a-f]{12}")


def collect(root: Path, unused_s: float, dry_run: bool) -> list[tuple[str, int]]:
    """Remove unused environments under `root`; return each folder's name and size in bytes.

    An environment of the current lock stays. An environment of another lock stays if a job used it in the last `unused_s`
    seconds, because a shared folder serves checkouts with other locks. An incomplete environment is removed at once, unless
    a process is creating it.
    """
    if not root.is_dir():
        return []
    current, found, failed = {place_of(name, root) for name in names()}, list[tuple[str, int]](), list[str]()
    for place in sorted(root.iterdir()):
        if not _PLACE.fullmatch(place.name) or place.is_symlink() or not place.is_dir() or not lock_of(place).is_file():
            continue  # not an environment's folder
        try:
            with locks.held(lock_of(place), wait=False):
                if _is_unused(place, place in current, unused_s):
                    found.append((place.name, size_bytes(place)))
                    if not dry_run:
                        remove(place)
        except BlockingIOError:
            continue  # a process is creating or removing it
        except OSError as error:
            failed.append(f"{place}: {(error.strerror or str(error)).lower()}")
    if failed:
        raise EnvironmentFailed(f"{failed[0]}; {len(failed)} environments could not be removed, {len(found)} were")
    return found


def _is_unused(place: Path, current: bool, unused_s: float) -> bool:
    try:
        used = (place / RECORD).stat().st_mtime
    except FileNotFoundError:
        return True
    return not current and used < time.time() - unused_s
