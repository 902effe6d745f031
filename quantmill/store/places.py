"""Where stores can lie: a folder, or `s3://bucket/prefix`."""

import re
from pathlib import Path

from quantmill.errors import SettingsError
from quantmill.files import safe_path
from quantmill.store.cache import BlobCache
from quantmill.store.folder import FolderObjects
from quantmill.store.objects import Objects
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_store(where: str | Path, stage_days: float = 90.0, cache: BlobCache | None = None) -> Store:
    """Return the store in a folder or a bucket. Nothing is asked or created before the first use.

    `cache` keeps what moves to and from a bucket; a folder needs none.

    Raises:
        SettingsError: it starts with s3:// and names no bucket and prefix.
    """
    if not is_s3(where):
        return Store(FolderObjects(Path(where)), stage_days)
    return Store(_bucket(str(where)), stage_days, cache)


def is_s3(where: str | Path) -> bool:
    """Return whether a place is a bucket."""
    return str(where).startswith("s3://")


def _bucket(where: str) -> Objects:
    bucket, _, prefix = where.removeprefix("s3://").rstrip("/").partition("/")
    try:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"not a bucket's name: {bucket!r}")
        return S3Objects(bucket, safe_path(prefix) if prefix else "")
    except ValueError as error:
        raise SettingsError(f"store: {where}: write it as s3://bucket/prefix ({error})") from error
