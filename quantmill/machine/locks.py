"""Locks between processes, on open files: the system releases a lock when its holder ends.

NFS turns `flock` into a lock of its own: an exclusive lock needs a file opened for writing, a shared lock a file opened for
reading. So files are opened for both.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True, create: bool = True) -> Iterator[int]:
    """Hold the lock of a file during the block, and lend the file's descriptor.

    A missing file is created; the content of an existing file is kept.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is off.
        FileNotFoundError: the file does not exist, and `create` is off.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield handle
    finally:
        os.close(handle)


@contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder during the block; a missing folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock"):
        yield


def share(handle: int) -> None:
    """Turn the exclusive lock of an open file, given by a descriptor or its copy, into a shared lock."""
    fcntl.flock(handle, fcntl.LOCK_SH)
