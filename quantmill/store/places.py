"""Where stores can lie: a folder, or `s3://bucket/prefix`."""

from pathlib import Path

from quantmill.errors import SettingsError
from quantmill.s3 import address
from quantmill.settings import Settings
from quantmill.store.cache import BlobCache
from quantmill.store.folder import FolderObjects
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store


def open_store(where: str | Path, stage_days: float = 90.0, cache: BlobCache | None = None) -> Store:
    """Return the store in a folder or a bucket. Nothing is asked or created before the first use.

    `cache` keeps what moves to and from a bucket; a folder needs none.

    Raises:
        SettingsError: it is an address, and not s3://bucket/prefix.
    """
    if "://" not in str(where):
        return Store(FolderObjects(Path(where)), stage_days)
    try:
        return Store(S3Objects(*address.read(str(where))), stage_days, cache)
    except ValueError as error:
        raise SettingsError(f"store: {where}: must be a folder or {address.RULE}") from error


def configured_store(settings: Settings) -> Store:
    """Return the store that the settings name; what moves to and from a bucket is kept in HOME/cache."""
    cache = BlobCache(settings.home / "cache", int(settings.cache_gb * 1e9))
    return open_store(settings.store_uri, settings.stage_days, cache)
