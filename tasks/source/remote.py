"""Code that remote sources share: disk space, progress, and a cache for servers that state no sha256.

A hub states a file's sha256 before the file is fetched; a bucket or a tracking server does not. For these the digest is
computed during the download. A state file beside the downloaded files records the listing that they belong to: a rerun
fetches only files that are missing or that the listing shows as changed.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from quantmill.errors import NotEnoughSpace, SourceError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.machine import disk, locks
from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Origin, Preview
from tasks.model import files as model_files
from tasks.model.architecture import of_config
from tasks.sandbox import PROGRESS, stopping
from tasks.source import left_out

_QUIET_S = 0.5
_MB = 10**6
_SLACK_BYTES = 256 << 20


class Listed(NamedTuple):
    """One file of a listing."""

    size_bytes: int
    stamp: str
    """A token that changes when the bytes change, such as an ETag."""


class Shelf(Protocol):
    """A remote folder that can be listed and read, but that states no sha256."""

    @property
    def listing(self) -> Mapping[str, Listed]:
        """File name -> size and stamp, without subfolders."""
        ...

    def read_file(self, name: str, target: Path, advance: Callable[[int], None]) -> str:
        """Write a file to `target` and return the sha256 of the written bytes.

        Raises:
            SourceError: the file is gone, has changed since the listing, or may not be read.
            DownloadError: the server broke off.
        """
        ...


class Meter:
    """Reports the progress of a download in the same form as jobs report theirs."""

    def __init__(self, total_bytes: int) -> None:
        """Start at 0 of `total_bytes`."""
        self._total, self._done, self._told = total_bytes, 0, 0.0

    def advance(self, some_bytes: int) -> None:
        """Count received bytes; a negative number takes back the bytes of an attempt that starts again.

        Raises:
            Stopped: the run was stopped; complete files stay for the next run.
        """
        stopping.require_going("download")
        self._done += some_bytes
        if time.monotonic() - self._told > _QUIET_S or self._done >= self._total:
            self._told = time.monotonic()
            done, total = (-(-size // _MB) for size in (self._done, self._total))
            extra = {"variant": "source", "step": "download, MB", "done": done, "total": total}
            PROGRESS.info("source: downloaded %d of %d MB", done, total, extra=extra)

    def reach(self, done_bytes: int) -> None:
        """Set the count to `done_bytes`."""
        self.advance(done_bytes - self._done)


def require_room(place: Path, missing_bytes: int) -> None:
    """Raise NotEnoughSpace if a download of `missing_bytes` would fill the disk that holds `place`."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing_bytes and free < missing_bytes + _SLACK_BYTES:
        raise NotEnoughSpace(
            f"{place}: {free / 1e9:.1f} GB free, the download needs {missing_bytes / 1e9:.1f} GB; set QUANTMILL_HOME"
        )


def preview(source: str, shelf: Shelf) -> Preview:
    """Return a preview from a shelf's listing and the model's config; keeps no file on the disk.

    Raises:
        SourceError: the shelf holds no causal language model in safetensors that can be quantized.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        texts = model_files.texts_in(source, shelf.listing)
        for name in ("config.json", model_files.INDEX):
            if name in texts:
                shelf.read_file(name, place / name, lambda _: None)
        architecture = of_config(place)
        names = [*texts, *model_files.weights_in(source, shelf.listing, place)]
        size = sum(shelf.listing[name].size_bytes for name in names)
        return Preview(kind="folder", size_bytes=size, download_bytes=size, architecture=architecture)


def take(request: ModelRequest, shelf: Shelf, cache: Path, resolved: str = "") -> Origin:
    """Fetch a shelf's model into `cache` and return its origin; files that are complete already are kept.

    Raises:
        SourceError: a file is not allowed, or the files are no model that can be quantized.
        DownloadError: the server broke off; complete files stay for the next run.
    """
    with locks.folder_held(cache):
        texts = model_files.texts_in(request.source, shelf.listing)
        first = ["config.json", *({model_files.INDEX} & set(texts))]
        files = _fetch_all(first, shelf, cache)
        architecture = of_config(cache)  # a model that is refused here has cost two small files
        files |= _fetch_all([name for name in texts if name not in files], shelf, cache)
        model_files.check_texts(cache, texts)  # a model that is refused here has cost no weights
        names = [*texts, *model_files.weights_in(request.source, shelf.listing, cache)]
        files |= _fetch_all([name for name in names if name not in files], shelf, cache)
        model_files.check_files(cache, sorted(files))
    left_out.tell(request.source, shelf.listing, files)
    entries = tuple(files[name] for name in sorted(files))
    return Origin(request=request, kind="folder", files=entries, architecture=architecture, resolved=resolved)


def again(origin: Origin, shelf: Callable[[], Shelf], cache: Path) -> Path:
    """Return the cache folder with the origin's files, after fetching those that are missing or damaged.

    Raises:
        SourceError: a file to fetch is gone or has changed at the source.
    """
    with locks.folder_held(cache):
        missing = [entry.path for entry in origin.files if not is_entry(cache / entry.path, entry)]
        for name in missing:
            (cache / name).unlink(missing_ok=True)
        if missing:
            place = shelf()
            if gone := [name for name in missing if name not in place.listing]:
                raise SourceError(f"{origin.request.source}: {gone[0]} is no longer there")
            _fetch_all(missing, place, cache)
        for entry in origin.files:
            if entry.path in missing and not is_entry(cache / entry.path, entry):
                raise SourceError(f"{origin.request.source}: {entry.path} has changed since the run began")
    return cache


def is_entry(path: Path, entry: FileEntry) -> bool:
    """Return whether a file has exactly the bytes of an entry."""
    return path.is_file() and path.stat().st_size == entry.size_bytes and keys.file_sha256(path) == entry.sha256


def _fetch_all(names: list[str], shelf: Shelf, cache: Path) -> dict[str, FileEntry]:
    """Fetch the files that the cache lacks or holds in an older state; return name -> entry of all names.

    The state file is written after each file.
    """
    state_file = cache / ".state.json"
    state = _read_state(state_file)

    def finished(name: str) -> bool:
        listed, path = shelf.listing[name], cache / name
        known = state.get(name, [])[:2] == [listed.size_bytes, listed.stamp]
        return known and path.is_file() and path.stat().st_size == listed.size_bytes

    missing = [name for name in names if not finished(name)]
    total = sum(shelf.listing[name].size_bytes for name in missing)
    require_room(cache, total)
    meter, done = Meter(total), 0
    for name in missing:
        listed, part = shelf.listing[name], cache / ".part"
        try:
            sha256 = shelf.read_file(name, part, meter.advance)
        except OSError as error:
            part.unlink(missing_ok=True)
            if disk.is_full(error):
                raise disk.disk_full(cache) from error
            raise NotEnoughSpace(f"{cache}: {(error.strerror or str(error)).lower()}; set QUANTMILL_HOME") from error
        if part.stat().st_size != listed.size_bytes:
            raise SourceError(f"{name}: received {part.stat().st_size} bytes, the listing says {listed.size_bytes}")
        part.replace(cache / name)
        state[name] = [listed.size_bytes, listed.stamp, sha256]
        (cache / ".state.new").write_text(json.dumps(state))
        (cache / ".state.new").replace(state_file)
        done += listed.size_bytes
        meter.reach(done)
    return {
        name: FileEntry(path=name, size_bytes=shelf.listing[name].size_bytes, sha256=str(state[name][2]))
        for name in names
    }


def _read_state(path: Path) -> dict[str, list[str | int]]:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}  # no state yet, or a damaged file: all files are fetched
