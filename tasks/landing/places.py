"""What lies at a place that is watched: each model with its revision, once it is whole and can be compressed.

A hub's commit and a version in MLflow are whole when they can be seen. A folder or a prefix is being filled for a while: it
counts once nothing changed for some time and the config, the tokenizer and every part that the index names are there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from quantmill.errors import DownloadError, QuantmillError
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest
from tasks.landing.watchlist import WatchEntry
from tasks.model import files as model_files
from tasks.source import download


class Sight(NamedTuple):
    """A model that lies there, in the state that it has now."""

    model: str
    """What stays the same from revision to revision."""
    request: ModelRequest
    """What a recipe asks for to get this state."""
    revision: str
    """A commit, a version, or a digest of the files."""
    files: dict[str, str]
    """Name -> what is another where the bytes are."""


class NotYet(NamedTuple):
    """Something that lies there and is not, or not yet, a model that can be compressed."""

    model: str
    why: str


class _Found(NamedTuple):
    """A model at a place, before a closer look."""

    model: str
    revision: str
    """Empty where it takes the closer look to know it."""
    changed_at: float
    """Seconds since 1970."""
    look: Callable[[], Sight]
    """Raises where it is no model that can be compressed."""


def look(
    entry: WatchEntry, home: Path, known: Callable[[str, str], bool], earlier: Sequence[WatchEntry] = ()
) -> Iterator[Sight | NotYet]:
    """Yield what lies at an entry's place and is not known yet.

    Args:
        entry: the place.
        home: what is remembered of sources lies under it.
        known: whether a revision of a model was seen before; nothing more is asked about it.
        earlier: the entries before it in the watch list; a model that one of them matches is that entry's, also where
            it does not take it.

    Raises:
        QuantmillError, OSError: the place itself cannot be read.
    """
    places: dict[str, Callable[[WatchEntry, Path], Iterator[_Found | NotYet]]]
    places = {"hf": _on_a_hub, "s3": _in_a_bucket, "mlflow": _in_mlflow, "folder": _in_a_folder}
    since = datetime.combine(entry.since, datetime.min.time(), UTC).timestamp()
    for found in places[entry.kind](entry, home):
        if any(other.matches(found.model) for other in earlier):
            continue
        if isinstance(found, NotYet):
            yield found
            continue
        if found.changed_at < since or (found.revision and known(found.model, found.revision)):
            continue
        quiet = time.time() - found.changed_at
        if entry.kind in ("s3", "folder") and quiet < entry.quiet_s:
            yield NotYet(found.model, f"changed {max(quiet, 0):.0f} s ago; it counts after {entry.quiet_s:g} s")
            continue
        try:
            sight = found.look()
        except DownloadError:
            raise
        except (QuantmillError, OSError) as error:
            yield NotYet(found.model, str(error))
            continue
        if not known(sight.model, sight.revision):
            yield sight


def _on_a_hub(entry: WatchEntry, home: Path) -> Iterator[_Found]:
    from tasks.source.hub import HubSource, models_of

    def closer(model: str, commit: str) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=model, revision=commit)
            source = HubSource(request, home)
            source.preview()
            files = {name: file.digest for name, file in source.listing.files.items() if model_files.is_part(name)}
            return Sight(model, request, commit, files)

        return look

    for name, commit, changed_at in models_of(entry.place.removeprefix("hf://")):
        if entry.wants(name):
            model = f"{entry.place}/{name}"
            yield _Found(model, commit, changed_at, closer(model, commit))


def _in_a_bucket(entry: WatchEntry, home: Path) -> Iterator[_Found]:
    from tasks.source.s3 import S3Source

    def closer(model: str, revision: str, files: dict[str, str]) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=model)
            S3Source(request, home).preview()
            return Sight(model, request, revision, files)

        return look

    for name, (files, changed_at) in S3Source(ModelRequest(source=entry.place), home).folders().items():
        parts = {file: stamp for file, stamp in files.items() if model_files.is_part(file)}
        if entry.wants(name) and parts:
            model, revision = f"{entry.place}/{name}", keys.digest(parts)
            yield _Found(model, revision, changed_at, closer(model, revision, parts))


def _in_mlflow(entry: WatchEntry, home: Path) -> Iterator[_Found]:
    from tasks.source.mlflow import MlflowSource, newest_versions

    def closer(model: str, version: str) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=f"{model}/{version}")
            MlflowSource(request, home).preview()
            return Sight(model, request, version, {"version": version})

        return look

    for name, version, changed_at in newest_versions(entry.wants):
        model = f"{entry.place}/{name}"
        yield _Found(model, version, changed_at, closer(model, version))


def _in_a_folder(entry: WatchEntry, home: Path) -> Iterator[_Found | NotYet]:
    def closer(model: str) -> Callable[[], Sight]:
        def look() -> Sight:  # the digest of its files: a folder that was copied there once more is the same
            origin = download.inspect_source(ModelRequest(source=model), home)
            request = ModelRequest(source=model, revision=origin.digest)
            return Sight(model, request, origin.digest, {file.path: file.sha256 for file in origin.files})

        return look

    place = Path(entry.place)
    for folder in sorted(place.iterdir()) if place.is_dir() else []:
        if not entry.wants(folder.name):
            continue
        try:
            if not folder.is_dir():
                continue
            # Not when a file was written, which a copy may keep, but when its entry changed on this disk.
            changed_at = max(path.lstat().st_ctime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:  # being moved about
            continue
        except OSError as error:  # another user's, or on a disk that is away: the other folders are looked at
            yield NotYet(str(folder), f"cannot be read ({error.strerror})")
            continue
        yield _Found(str(folder), "", changed_at, closer(str(folder)))
