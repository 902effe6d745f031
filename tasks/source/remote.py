"""What the sources over a network share: room on the disk, progress, and a cache for places that state no sha256.

A hub says what a file's sha256 is before it is fetched; a bucket or a tracking server does not. There the digest is made
while the bytes come in, and a state file beside them says which listing they belong to: a rerun fetches only what is not
there yet, or what the listing shows as changed.
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

_QUIET_S = 0.5
_MB = 10**6
_SLACK_BYTES = 256 << 20


class Listed(NamedTuple):
    """One file of a listing."""

    size_bytes: int
    stamp: str
    """What is another where the bytes are: an ETag."""


class Shelf(Protocol):
    """A place that lists files and gives their bytes, and states no sha256."""

    @property
    def listing(self) -> Mapping[str, Listed]:
        """What lies there, by name, without subfolders."""
        ...

    def read_file(self, name: str, target: Path, advance: Callable[[int], None]) -> str:
        """Write a file to `target` and return the sha256 of what was written.

        Raises:
            SourceError: it is gone, is another than was listed, or may not be read.
            DownloadError: the server broke off.
        """
        ...


class Meter:
    """Tells how far a download is, as the jobs do with their work."""

    def __init__(self, total_bytes: int) -> None:
        """Begin at nothing of `total_bytes`."""
        self._total, self._done, self._told = total_bytes, 0, 0.0

    def advance(self, some_bytes: int) -> None:
        """Count bytes that came in (fewer than none: an attempt that begins again).

        Raises:
            Stopped: the run was stopped; what is complete stays for the next time.
        """
        stopping.require_going("download")
        self._done += some_bytes
        if time.monotonic() - self._told > _QUIET_S or self._done >= self._total:
            self._told = time.monotonic()
            done, total = (-(-size // _MB) for size in (self._done, self._total))
            extra = {"variant": "source", "step": "download, MB", "done": done, "total": total}
            PROGRESS.info("source: downloaded %d of %d MB", done, total, extra=extra)

    def reach(self, done_bytes: int) -> None:
        """Stand at `done_bytes`, whatever was counted on the way."""
        self.advance(done_bytes - self._done)


def require_room(place: Path, missing_bytes: int) -> None:
    """Raise NotEnoughSpace where a download of so many bytes would fill the disk that holds `place`."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing_bytes and free < missing_bytes + _SLACK_BYTES:
        raise NotEnoughSpace(
            f"{place}: {free / 1e9:.1f} GB free, the download needs {missing_bytes / 1e9:.1f} GB; set QUANTMILL_HOME"
        )


def preview(source: str, shelf: Shelf) -> Preview:
    """Return what a shelf holds, from its listing and the model's config; nothing stays on the disk.

    Raises:
        SourceError: it is no causal language model in safetensors that can be quantized.
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
    """Return the origin of a shelf's model, after its files were fetched into `cache`; finished files are kept.

    Raises:
        SourceError: a file is not allowed, or it is no model that can be quantized.
        DownloadError: the server broke off; what is complete stays for the next time.
    """
    with locks.folder_held(cache):
        texts = model_files.texts_in(request.source, shelf.listing)
        first = ["config.json", *({model_files.INDEX} & set(texts))]
        files = _fetch_all(first, shelf, cache)
        architecture = of_config(cache)  # refused here, a model costs two small files
        files |= _fetch_all([name for name in texts if name not in files], shelf, cache)
        model_files.check_texts(cache, texts)  # and here no weights
        names = [*texts, *model_files.weights_in(request.source, shelf.listing, cache)]
        files |= _fetch_all([name for name in names if name not in files], shelf, cache)
        model_files.check_files(cache, sorted(files))
    entries = tuple(files[name] for name in sorted(files))
    return Origin(request=request, kind="folder", files=entries, architecture=architecture, resolved=resolved)


def again(origin: Origin, shelf: Callable[[], Shelf], cache: Path) -> Path:
    """Return the folder with just the origin's bytes; what is missing or damaged is fetched, if it is still the same.

    Raises:
        SourceError: what lies at the source now is something else.
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
                raise SourceError(f"{origin.request.source}: {entry.path} is another than when the run began")
    return cache


def is_entry(path: Path, entry: FileEntry) -> bool:
    """Return whether a file has just the bytes of an entry."""
    return path.is_file() and path.stat().st_size == entry.size_bytes and keys.file_sha256(path) == entry.sha256


def _fetch_all(names: list[str], shelf: Shelf, cache: Path) -> dict[str, FileEntry]:
    """Fetch what is not in the cache as it is listed; the state is written after every file."""
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
            raise SourceError(f"{name}: {part.stat().st_size} bytes came, {listed.size_bytes} were listed")
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
        return {}  # nothing yet, or damaged: all is fetched
