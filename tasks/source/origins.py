"""Inspects sources and caches their origins, so that an unchanged source is not read again.

The cache is `HOME/origins`. Errors raised here name no field of the recipe.
"""

from pathlib import Path

from pydantic import ValidationError

from quantmill.errors import NotCached
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Origin, Preview
from tasks.source import places


def inspect(request: ModelRequest, home: Path, fetch: bool = True) -> Origin:
    """Return the origin of a request; see `download.inspect_source`."""
    source = places.open_source(request, home)
    memo = _memo(request, source, home)
    try:
        return Origin.model_validate_json(memo.read_bytes())
    except (FileNotFoundError, ValidationError):
        pass
    if source.fetches and not fetch:
        raise NotCached(f"{request.source}: has not been fetched yet")
    origin = source.inspect()
    if home.exists():  # only a run creates the home: a refused request must leave nothing behind
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(origin.model_dump_json(), encoding="utf-8")
    return origin


def preview(request: ModelRequest, home: Path) -> Origin | Preview:
    """Return the cached origin, or a preview made without fetching the weights."""
    source = places.open_source(request, home)
    try:
        return Origin.model_validate_json(_memo(request, source, home).read_bytes())
    except (FileNotFoundError, ValidationError):
        return source.preview()


def _memo(request: ModelRequest, source: places.Source, home: Path) -> Path:
    """Return the cache file of an origin; a changed source has another stamp and so another file name."""
    return home / "origins" / f"{keys.digest([request.model_dump(), source.stamp])}.json"
