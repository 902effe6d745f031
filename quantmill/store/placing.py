"""Hard links and checked copies of files."""

import os
import shutil
from pathlib import Path

from quantmill.errors import VerificationError
from quantmill.files import keys
from quantmill.files.paths import sync


def link(source: Path, target: Path) -> bool:
    """Make a hard link and return whether that worked; it fails across disks and without link support."""
    try:
        os.link(source, target)
        return True
    except OSError:
        return False


def close(path: Path) -> bool:
    """Make a file read-only and return whether that worked; it fails for another user's file."""
    try:
        path.chmod(0o444)
        return True
    except PermissionError:
        return False


def copy_checked(source: Path, target: Path, sha256: str) -> None:
    """Copy a file, check the copy's digest and sync the copy to the disk.

    Raises:
        VerificationError: the copy does not match `sha256`; it is removed.
    """
    shutil.copyfile(source, target)
    if keys.file_sha256(target) != sha256:
        target.unlink()
        raise VerificationError(f"{source}: the copy at {target} has other bytes")
    sync(target)
