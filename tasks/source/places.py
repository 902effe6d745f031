"""Opens and locates sources with the code of their scheme, `tasks/source/schemes/NAME.py`.

NAME is the name of the scheme's row in `quantmill/recipe/schemes`. Such a module has

    locate(source) -> Path                                             if the row is not `remote`: files on this machine
    open_source(request, home) -> Source                               if the row is `remote`: files must be fetched
    find_models(place, wanted, home) -> Iterator[Found | NotYet]       if the row has a `watch`: watch lists may name it
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from quantmill.errors import SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.recipe.schemes import Scheme, require_written
from quantmill.records.artifact import Origin, Preview
from tasks.source.local import LocalSource
from tasks.source.sights import Found, NotYet


class Source(Protocol):
    """A source that a recipe names."""

    @property
    def fetches(self) -> bool:
        """Whether `inspect` must fetch the weights, because the source states no sha256 for them."""
        ...

    @property
    def stamp(self) -> object:
        """A JSON value that changes when the source's files change: part of the key of a cached origin."""
        ...

    def preview(self) -> Preview:
        """Return kind, size and architecture without fetching the weights.

        Nothing is written while the home does not exist.

        Raises:
            SourceError: the source is no causal language model that can be quantized, or may not be read.
            DownloadError: the source's server does not answer.
        """
        ...

    def inspect(self) -> Origin:
        """Return the source's files, checked, each with its sha256; raises the same errors as `preview`."""
        ...

    def fetch(self, origin: Origin) -> Path:
        """Return the folder or file on this machine that holds exactly the origin's bytes.

        Raises:
            SourceError: the source's files have changed.
            VerificationError: the received bytes do not match the stated digest.
            DownloadError: the server broke off.
        """
        ...


def open_source(request: ModelRequest, home: Path) -> Source:
    """Return the source that a request names; a remote source keeps its cache under `home`.

    Raises:
        SourceError: the source is not written as its scheme demands, or is missing on this machine.
    """
    row = _require_written(request.source)
    if not row.remote:
        return LocalSource(request, locate(request.source))
    source: Source = _work_of(row).open_source(request, home)
    return source


def locate(source: str) -> Path:
    """Return the path of a source whose files are on this machine.

    Raises:
        SourceError: the path does not exist, the source is not written as its scheme demands, or is remote.
    """
    row = _require_written(source)
    if row.remote:
        raise SourceError(f"{source}: {row.title}; its files are not on this machine until they are fetched")
    path: Path = _work_of(row).locate(source)
    return path


def find_models(row: Scheme, place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found | NotYet]:
    """Yield the models at a watched place of a scheme whose names are `wanted`.

    Raises:
        QuantmillError, OSError: the watched place itself cannot be read.
    """
    found: Iterator[Found | NotYet] = _work_of(row).find_models(place, wanted, home)
    return found


def _require_written(source: str) -> Scheme:
    try:
        return require_written(source)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _work_of(row: Scheme) -> Any:
    return import_module(f"tasks.source.schemes.{row.name}")
