"""Opens a store in a folder or at `s3://bucket/prefix`."""

from pathlib import Path

from quantmill.errors import SettingsError
from quantmill.s3 import address
from quantmill.settings import Settings
from quantmill.store.cache import BlobCache
from quantmill.store.folder import FolderObjects
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store


def open_store(where: str | Path, stage_days: float = 90.0, cache: BlobCache | None = None) -> Store:
    """Return the store in a folder or a bucket; nothing is read or created before the first use.

    `cache` keeps blobs that move to and from a bucket; a store in a folder ignores it.

    Raises:
        SettingsError: `where` is an address but not s3://bucket/prefix.
    """
    if "://" not in str(where):
        return Store(FolderObjects(Path(where)), stage_days)
    try:
        return Store(S3Objects(*address.read(str(where))), stage_days, cache)
    except ValueError as error:
        raise SettingsError(f"store: {where}: must be a folder or {address.RULE}") from error


def configured_store(settings: Settings) -> Store:
    """Return the store of the settings; HOME/cache keeps the blobs of a store in a bucket."""
    cache = BlobCache(settings.home / "cache", int(settings.cache_gb * 1e9))
    return open_store(settings.store_uri, settings.stage_days, cache)
