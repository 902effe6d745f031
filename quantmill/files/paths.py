"""Paths and addresses: portable names, the check of a path or address that a user gives, and sync."""

import errno
import os
import re
import stat
import unicodedata
from pathlib import Path
from urllib.parse import quote

_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?")
_ADDRESS = re.compile(r"(?:(?:s3|gs|hf|https?|file):|[A-Za-z][A-Za-z0-9+.-]+:(?=/))(/*)")
_WINDOWS_NAMES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def safe_path(path: str) -> str:
    """Return `path` if it is a plain relative file path that every system can hold.

    Raises:
        ValueError: the path is absolute or too long, has an empty part, a part that ends with a dot or a blank, a part that
            Windows reserves, or a character that Windows or a terminal cannot take.
    """
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and not part.endswith((" ", ".")) for part in parts)
    printable = all(sign.isprintable() and sign not in '\\:*?"<>|' for sign in path)
    if not plain or not printable or len(path) > 512 or any(_WINDOWS_NAMES.match(part) for part in parts):
        raise ValueError(f"not a plain relative path: {path!r}")
    return unicodedata.normalize("NFC", path)


def safe_name(name: str) -> str:
    """Return `name` if it is a `safe_path` without a folder.

    Raises:
        ValueError: the name is not plain.
    """
    if "/" in name:
        raise ValueError(f"not a plain name: {name!r}")
    return safe_path(name)


def require_place(text: str, addresses: bool = False) -> str:
    """Return `text` unchanged if it is a path or, with `addresses`, an address such as s3://bucket/prefix.

    The check is needed because nothing expands `~` or variables later, and because a mistyped address would become a folder
    below the working directory.

    Raises:
        ValueError: the text begins with `~`, names a variable, or looks like an address that is not allowed here.
    """
    if text.startswith("~"):
        raise ValueError("must be a whole path: ~ is not expanded here")
    if found := _VARIABLE.search(text):
        raise ValueError(f"must be a whole path: {found[0]} is not expanded here")
    if (found := _ADDRESS.match(text)) and not (addresses and found[1].startswith("//")):
        allowed = "a path, or an address such as s3://bucket/prefix" if addresses else "a path"
        raise ValueError(f"must be {allowed}")
    return text


def sqlite_uri(path: Path, driver: str = "") -> str:
    """Return the SQLAlchemy URL of an SQLite file with any absolute path.

    A `?` would begin the URL's options, so a path with `?` is written as an SQLite URI. The driver's name in that URL keeps
    MLflow from making a folder called `file:` in its working directory.
    """
    if "?" not in str(path):
        return f"sqlite{driver and f'+{driver}'}:///{path}"
    return f"sqlite+{driver or 'pysqlite'}:///file:{quote(str(path))}?uri=true"


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk.

    FUSE, CIFS and other file systems cannot sync a folder (EINVAL); there the server decides how safe the names are.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)
