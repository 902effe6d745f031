"""`hf://org/name`: a model repository of a hub, resolved to a commit and fetched by `huggingface_hub`.

HF_ENDPOINT names the hub and HF_TOKEN the token; `huggingface_hub` reads both itself. The library resumes a broken
download while it runs and deletes the partial file when it gives up; complete files stay. The library compares sizes
only, so every file is checked here: large files against the sha256 that the hub states, small files against git's digest.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from quantmill.errors import DownloadError, SourceError, VerificationError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.machine import locks
from quantmill.recipe.recipe import ModelRequest
from quantmill.recipe.schemes import hub_name
from quantmill.records.artifact import Architecture, Origin, Preview
from tasks import hub
from tasks.model import files as model_files
from tasks.model.architecture import of_config
from tasks.source import left_out, remote
from tasks.source.fields import WrongRevision
from tasks.source.sights import Found, Sight

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 30


class HubFile(NamedTuple):
    """One file as the hub lists it."""

    size_bytes: int
    digest: str
    """64 hex digits: the sha256 of the file's bytes; 40 hex digits: git's blob digest."""


class _Listing(NamedTuple):
    commit: str
    files: dict[str, HubFile]
    license: str


class HubSource:
    """A model repository at a commit."""

    fetches = False  # the hub states the sha256 of weights

    def __init__(self, request: ModelRequest, home: Path) -> None:
        """Keep the repository's name; the hub is not asked yet."""
        self._request, self._home, self._repo = request, home, hub_name(request.source)

    @property
    def stamp(self) -> object:
        """The commit; a request that names a commit needs no answer from the hub."""
        revision = self._request.revision
        return revision if _COMMIT.fullmatch(revision) else self.listing.commit

    def preview(self) -> Preview:
        """Return a preview from the hub's listing and the model's config."""
        with self._cache() as cache:
            architecture, texts, weights = self._look(cache)
            size = sum(self.listing.files[name].size_bytes for name in (*texts, *weights))
        return Preview(kind="folder", size_bytes=size, download_bytes=size, architecture=architecture)

    def inspect(self) -> Origin:
        """Return the commit's files with their sha256; fetches the text files, not the weights."""
        listing = self.listing
        with self._cache() as cache:
            architecture, texts, weights = self._look(cache)
            paths = {name: self._fetch(name, cache) for name in texts}
            model_files.check_texts(paths["config.json"].parent, texts)
            entries = [self._entry(name, cache) for name in sorted([*texts, *weights])]
            left_out.tell(self._request.source, listing.files, [*texts, *weights])
        return Origin(
            request=self._request,
            kind="folder",
            files=tuple(entries),
            architecture=architecture,
            license=listing.license,
            resolved=listing.commit,
        )

    def fetch(self, origin: Origin) -> Path:
        """Fetch the commit's missing files, check all files and return their folder in the cache."""
        cache = self._home / "hub"
        folder = self._folder(cache, origin.resolved)
        self._drop_leftovers(cache)
        remote.require_room(cache, sum(file.size_bytes for file in origin.files if not (folder / file.path).exists()))
        meter, done = remote.Meter(origin.size_bytes), 0
        for file in origin.files:
            path = self._download(file.path, origin.resolved, cache, meter.advance)
            _check(path, file.path, HubFile(file.size_bytes, file.sha256), self._request.source)
            done += file.size_bytes
            meter.reach(done)
        model_files.check_files(folder, [file.path for file in origin.files])
        return folder

    def _look(self, cache: Path) -> tuple[Architecture, list[str], list[str]]:
        """Return the architecture, the text files and the weight files; fetches the config and the index."""
        source, listed = self._request.source, self.listing.files
        texts = model_files.texts_in(source, listed)
        place = self._fetch("config.json", cache).parent
        architecture = of_config(place)
        if model_files.INDEX in texts:
            self._fetch(model_files.INDEX, cache)
        return architecture, texts, model_files.weights_in(source, listed, place)

    def _entry(self, name: str, cache: Path) -> FileEntry:
        """Return a file's entry; a file without a sha256 at the hub is small and is fetched to compute it."""
        file = self.listing.files[name]
        sha256 = file.digest if len(file.digest) == 64 else keys.file_sha256(self._fetch(name, cache))
        return FileEntry(path=name, size_bytes=file.size_bytes, sha256=sha256)

    def _fetch(self, name: str, cache: Path) -> Path:
        path = self._download(name, self.listing.commit, cache, lambda _: None)
        _check(path, name, self.listing.files[name], self._request.source)
        return path

    @cached_property
    def listing(self) -> _Listing:
        """The hub's listing, or the cached files of the named commit if the hub does not answer."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError

        source, revision = self._request.source, self._request.revision or "main"
        try:
            with hub.one_line(source, SourceError):
                info = HfApi().model_info(self._repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        except SourceError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                raise WrongRevision(f"{revision}: {source} has no such branch, tag or commit") from error
            raise
        except DownloadError as error:
            if not _COMMIT.fullmatch(revision) or not (folder := self._folder(self._home / "hub", revision)).is_dir():
                raise DownloadError(
                    f"{error}; without the hub, the revision must be a commit that was fetched before"
                ) from error
            return _Listing(revision, {path.name: _as_cached(path) for path in folder.iterdir() if path.is_file()}, "")
        files = {
            file.rfilename: HubFile(file.size, file.lfs.sha256 if file.lfs else file.blob_id)
            for file in info.siblings or []
            if file.size is not None and file.blob_id
        }
        if not _COMMIT.fullmatch(str(info.sha)):
            raise DownloadError(f"{source}: the hub states no commit for {revision}")
        tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        return _Listing(str(info.sha), files, next(iter(tags), ""))

    def _download(self, name: str, commit: str, cache: Path, advance: Callable[[int], None]) -> Path:
        from huggingface_hub import hf_hub_download

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings show signed addresses
        with hub.one_line(self._request.source, SourceError):
            return Path(
                hf_hub_download(self._repo, name, revision=commit, cache_dir=cache, tqdm_class=hub.bar_of(advance))
            )

    @contextmanager
    def _cache(self) -> Iterator[Path]:
        """Lend the home's cache, or a temporary folder if there is no home: a refused request leaves nothing."""
        if self._home.exists():
            yield self._home / "hub"
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def _folder(self, cache: Path, commit: str) -> Path:
        return cache / f"models--{self._repo.replace('/', '--')}" / "snapshots" / commit

    def _drop_leftovers(self, cache: Path) -> None:
        """Delete partial files of killed runs, which the library never resumes.

        A partial file is in use while a process holds its lock.
        """
        blobs = self._folder(cache, "").parent / "blobs"
        for part in blobs.glob("*.incomplete"):
            lock = cache / ".locks" / blobs.parent.name / f"{part.name.partition('.')[0]}.lock"
            with suppress(OSError), locks.held(lock, wait=False):
                part.unlink()


def open_source(request: ModelRequest, home: Path) -> HubSource:
    """Return the repository that a request names."""
    return HubSource(request, home)


def find_models(place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found]:
    """Yield the models of an organisation, each at the commit of its main branch."""

    def closer(model: str, commit: str) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=model, revision=commit)
            source = HubSource(request, home)
            source.preview()
            files = {name: file.digest for name, file in source.listing.files.items() if model_files.is_part(name)}
            return Sight(model, request, commit, files)

        return look

    for name, commit, changed_at in _models_of(place):
        if wanted(name):
            model = f"{place}/{name}"
            yield Found(model, commit, changed_at, closer(model, commit))


def _models_of(place: str) -> list[tuple[str, str, float]]:
    """Return an organisation's models: name, commit of the main branch, last change in seconds since 1970."""
    from huggingface_hub import HfApi

    with hub.one_line(place, SourceError):
        found = list(HfApi().list_models(author=place.rpartition("/")[2], full=True))
    return [
        (info.id.partition("/")[2], info.sha, info.last_modified.timestamp() if info.last_modified else 0.0)
        for info in found
        if info.sha
    ]


def _as_cached(path: Path) -> HubFile:
    """Return a cached file's size and digest; the digest that the hub stated is the name of its blob."""
    return HubFile(path.stat().st_size, path.resolve().name)


def _check(path: Path, name: str, file: HubFile, source: str) -> None:
    """Raise VerificationError and delete the file if it differs from the hub's digest."""
    size = path.stat().st_size
    if (
        size == file.size_bytes
        and (keys.file_sha256(path) if len(file.digest) == 64 else hub.git_digest(path)) == file.digest
    ):
        return
    for place in (path.resolve(), path):
        place.unlink(missing_ok=True)
    raise VerificationError(
        f"{source}: {name}: the {size} bytes received do not match digest {file.digest}; the file was deleted,"
        " and the same command fetches it again"
    )
