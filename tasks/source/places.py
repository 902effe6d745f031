"""A recipe's source -> where its bytes are. The work of a scheme is `tasks/source/schemes/NAME.py`, named as its row.

Such a module has

    locate(source) -> Path                                             where the row says that the bytes are on this machine
    open_source(request, home) -> Source                               where they must be fetched
    find_models(place, wanted, home) -> Iterator[Found | NotYet]       where the row says how watch lists name them
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
    """A place that a recipe names, before anything of it was taken in."""

    @property
    def fetches(self) -> bool:
        """Whether `inspect` has to fetch the weights, as no sha256 is stated without them."""
        ...

    @property
    def stamp(self) -> object:
        """JSON that changes when the files there change: an origin is remembered under it."""
        ...

    def preview(self) -> Preview:
        """Return what can be told without the weights; nothing is written where there is no home yet.

        Raises:
            SourceError: it is no causal language model that can be quantized, or may not be read.
            DownloadError: its server does not answer.
        """
        ...

    def inspect(self) -> Origin:
        """Return the checked files with the sha256 of each; raises as `preview` does."""
        ...

    def fetch(self, origin: Origin) -> Path:
        """Return the folder or file on this machine that holds just the origin's bytes.

        Raises:
            SourceError: the files there now are others.
            VerificationError: the bytes that came are not those of the digest that was stated.
            DownloadError: the server broke off.
        """
        ...


def open_source(request: ModelRequest, home: Path) -> Source:
    """Return the source that a request names; its cache, where it has one, is under `home`.

    Raises:
        SourceError: no source is written like this, or nothing is there on this machine.
    """
    row = _require_written(request.source)
    if not row.remote:
        return LocalSource(request, locate(request.source))
    source: Source = _work_of(row).open_source(request, home)
    return source


def locate(source: str) -> Path:
    """Return the path of a source whose bytes are on this machine.

    Raises:
        SourceError: there is none, no source is written like this, or its bytes must be fetched first.
    """
    row = _require_written(source)
    if row.remote:
        raise SourceError(f"{source}: {row.title}; its files are not on this machine before they are fetched")
    path: Path = _work_of(row).locate(source)
    return path


def find_models(row: Scheme, place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found | NotYet]:
    """Yield the models of a scheme at a place whose names are `wanted`.

    Raises:
        QuantmillError, OSError: the place itself cannot be read.
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
