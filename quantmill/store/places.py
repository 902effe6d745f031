"""Where stores can lie."""

from pathlib import Path

from quantmill.store.folder import FolderObjects
from quantmill.store.store import Store


def open_store(where: str | Path, stage_days: float = 90.0) -> Store:
    """Return the store in a folder. Nothing is created before the first write."""
    return Store(FolderObjects(Path(where)), stage_days)
