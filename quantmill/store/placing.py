"""Puts a file's bytes under another name: as a link where the disk allows it, else as a copy that is checked."""

import os
import shutil
from pathlib import Path

from quantmill.errors import VerificationError
from quantmill.files import keys
from quantmill.files.paths import sync


def link(source: Path, target: Path) -> bool:
    """Return whether a link could be made: not to another disk, nor on a file system without links."""
    try:
        os.link(source, target)
        return True
    except OSError:
        return False


def close(path: Path) -> bool:
    """Return whether a file could be made read-only: not where it is another user's."""
    try:
        path.chmod(0o444)
        return True
    except PermissionError:
        return False


def copy_checked(source: Path, target: Path, sha256: str) -> None:
    """Copy a file and have the copy on the disk.

    Raises:
        VerificationError: its bytes are not those of `sha256`; the copy is removed.
    """
    shutil.copyfile(source, target)
    if keys.file_sha256(target) != sha256:
        target.unlink()
        raise VerificationError(f"{source}: the copy at {target} is not what was read")
    sync(target)
