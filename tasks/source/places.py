"""Where models come from: one class for each kind of source, found by what stands before `://`.

What lies on this machine is read where it lies. The others have a module each and a cache of their own under the home.
"""

import importlib.util
from pathlib import Path
from typing import Protocol

from quantmill.errors import RequestError, SourceError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path
from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Architecture, Origin, Preview
from tasks.model import files as model_files
from tasks.model import licences
from tasks.model.architecture import of_config, of_gguf


class Source(Protocol):
    """A place that a recipe names, before anything of it was taken in."""

    @property
    def fetches(self) -> bool:
        """Whether `inspect` has to fetch the weights, as no sha256 is stated without them."""
        ...

    @property
    def stamp(self) -> object:
        """JSON that is another where what lies there is: an origin is remembered under it."""
        ...

    def preview(self) -> Preview:
        """Return what can be told without the weights; nothing is written where there is no home yet.

        Raises:
            SourceError: it is no causal language model that can be quantized, or may not be read.
            DownloadError: its server does not answer.
        """
        ...

    def inspect(self) -> Origin:
        """Return what lies there, checked and with the sha256 of every file; raises as `preview` does."""
        ...

    def fetch(self, origin: Origin) -> Path:
        """Return the folder or file on this machine that holds just the origin's bytes.

        Raises:
            SourceError: what lies there now is something else.
            VerificationError: the bytes that came are not those of the digest that was stated.
            DownloadError: the server broke off.
        """
        ...


def open_source(request: ModelRequest, home: Path) -> Source:
    """Return the source that a request names; its cache, where it has one, lies under `home`.

    Raises:
        SourceError: no source is written like this.
    """
    scheme = request.source.partition("://")[0] if request.remote else ""
    if scheme == "hf":
        from tasks.source.hub import HubSource

        return HubSource(request, home)
    if scheme == "s3":
        from tasks.source.s3 import S3Source

        return S3Source(request, home)
    if scheme == "mlflow":
        from tasks.source.mlflow import MlflowSource

        return MlflowSource(request, home)
    return LocalSource(request)


class LocalSource:
    """A folder, a GGUF file, or a file that an installed package carries."""

    fetches = False

    def __init__(self, request: ModelRequest) -> None:
        """Find the place; see `locate`."""
        self._request, self._path = request, locate(request.source)

    @property
    def stamp(self) -> object:
        """Every file's size and time."""
        inside = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        states = [(file, file.stat() if file.exists() else file.lstat()) for file in inside]  # a link may lead nowhere
        return [[str(file), state.st_size, state.st_mtime_ns, state.st_ino] for file, state in states]

    def preview(self) -> Preview:
        """Return what lies there, in short; weights are hashed only where the request says how the digest begins."""
        if self._request.revision:
            self.inspect()
        kind, paths, shape, _ = self._look()
        size = sum(path.stat().st_size for path in paths.values())
        return Preview(kind=kind, size_bytes=size, download_bytes=0, architecture=shape)

    def inspect(self) -> Origin:
        """Return what lies there, checked and with the sha256 of every file; writes nothing."""
        kind, paths, shape, license_name = self._look()
        files = tuple(
            FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))
            for name, path in paths.items()
        )
        return require_revision(
            Origin(request=self._request, kind=kind, files=files, architecture=shape, license=license_name)
        )

    def _look(self) -> tuple[str, dict[str, Path], Architecture, str]:
        """Return the kind, the files by name, the model's shape and the licence that the source states."""
        path = self._path
        if path.is_dir():
            files = {name: path / name for name in model_files.list_files(path)}
            return "folder", files, of_config(path), licences.stated_in(path)
        if path.suffix != ".gguf":
            raise SourceError(f"model.source: {self._request.source}: a single file must be a .gguf")
        shape, license_name = of_gguf(path)
        return "gguf", {safe_path(path.name): path}, shape, license_name

    def fetch(self, origin: Origin) -> Path:  # noqa: ARG002 (what was made of it is checked, and says more)
        """Return where it lies."""
        return self._path


def locate(source: str) -> Path:
    """Return where a source on this machine lies.

    Raises:
        SourceError: it does not exist, or its kind is not one that this release fetches.
    """
    scheme, mark, rest = source.partition("://")
    if not mark:
        try:
            path = Path(source).expanduser().absolute()  # a job works in another folder
            if path.exists():
                return path
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"model.source: {source[:80]}: {' '.join(str(error).split())[:120]}") from error
        hint = (
            f"; a model of the hub is written hf://{source}"
            if source.count("/") == 1 and source[0] not in "./~"
            else ""
        )
        raise SourceError(f"model.source: {source}: no such file or folder{hint}")
    if scheme != "package":
        raise SourceError(
            f"model.source: {source}: allowed are a folder, a .gguf file, hf://org/name, s3://bucket/prefix,"
            " mlflow://models/name/version and package://module/file"
        )
    module, slash, name = rest.partition("/")
    try:
        found = importlib.util.find_spec(module) if module.isidentifier() and slash else None
        inside = Path(str(found.origin)).parent / safe_path(name) if found and found.origin else None
    except (ValueError, ImportError) as error:
        raise SourceError(f"model.source: {source}: {error}") from error
    if inside is None or not inside.is_file():
        raise SourceError(
            f"model.source: {source}: write it as package://module/file; no installed package has that file"
        )
    return inside


def require_revision(origin: Origin) -> Origin:
    """Return `origin` if it is the revision that was asked for."""
    if not origin.digest.startswith(origin.request.revision):
        raise RequestError(f"model.revision: {origin.request.revision}: the source's digest is {origin.digest}")
    return origin
