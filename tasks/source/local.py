"""A source on this machine: a model folder or a GGUF file, read without a copy."""

import os
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path
from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Architecture, Origin, Preview
from tasks.model import files as model_files
from tasks.model import licences
from tasks.model.architecture import of_config, of_gguf
from tasks.source import left_out
from tasks.source.fields import WrongRevision


class LocalSource:
    """A model folder or a GGUF file."""

    fetches = False

    def __init__(self, request: ModelRequest, path: Path) -> None:
        """Keep the path; nothing is read yet."""
        self._request, self._path = request, path

    @property
    def stamp(self) -> object:
        """Path, size, modification time and inode of every file."""
        inside = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        states = [(file, file.stat() if file.exists() else file.lstat()) for file in inside]  # a link may be broken
        return [[_shown(file), state.st_size, state.st_mtime_ns, state.st_ino] for file, state in states]

    def preview(self) -> Preview:
        """Return kind, size and architecture; the weights are hashed only if the request names a revision."""
        if self._request.revision:
            self.inspect()
        kind, paths, shape, _ = self._look()
        size = sum(path.stat().st_size for path in paths.values())
        return Preview(kind=kind, size_bytes=size, download_bytes=0, architecture=shape)

    def inspect(self) -> Origin:
        """Return the source's files, checked, each with its sha256; writes nothing."""
        kind, paths, shape, license_name = self._look()
        if self._path.is_dir():
            left_out.tell(
                self._request.source, (path.name + "/" * path.is_dir() for path in self._path.iterdir()), paths
            )
        files = tuple(
            FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))
            for name, path in paths.items()
        )
        return require_revision(
            Origin(request=self._request, kind=kind, files=files, architecture=shape, license=license_name)
        )

    def _look(self) -> tuple[str, dict[str, Path], Architecture, str]:
        """Return the kind, the files by name, the model's architecture and the licence that the source states."""
        path = self._path
        if path.is_dir():
            files = {name: path / name for name in model_files.list_files(path)}
            return "folder", files, of_config(path), licences.stated_in(path)
        if path.suffix != ".gguf":
            raise SourceError(f"{self._request.source}: a single file must be a .gguf")
        shape, license_name = of_gguf(path)
        return "gguf", {safe_path(path.name): path}, shape, license_name

    def fetch(self, origin: Origin) -> Path:  # noqa: ARG002 (the snapshot's digest is checked, and tells more)
        """Return the source's path; there is nothing to fetch."""
        return self._path


def _shown(path: Path) -> str:
    """Return a path as text that JSON can hold: a file's name may be no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def require_revision(origin: Origin) -> Origin:
    """Return `origin` if its digest begins with the request's revision; else raise WrongRevision."""
    if not origin.digest.startswith(origin.request.revision):
        raise WrongRevision(f"{origin.request.revision}: the source's digest is {origin.digest}")
    return origin
