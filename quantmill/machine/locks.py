"""Locks between processes: held on an open file, and gone with whoever holds them.

NFS turns `flock` into a lock of its own, which an exclusive holder must have opened for writing and a shared one for reading:
files are opened for both.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True, create: bool = True) -> Iterator[int]:
    """Hold the lock of a file, which is made where it is missing and keeps its bytes; lends its descriptor.

    Raises:
        BlockingIOError: somebody else holds it, and `wait` is off.
        FileNotFoundError: there is no such file, and `create` is off.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield handle
    finally:
        os.close(handle)


@contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Keep other processes from a folder, which is made where it is missing, while this one works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock"):
        yield


def share(handle: int) -> None:
    """Turn an exclusive lock, held by this descriptor of an open file or a copy of it, into a shared one."""
    fcntl.flock(handle, fcntl.LOCK_SH)
