"""What is at a source, remembered: a source that shows no change is not read again. Errors name no field here."""

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
    if home.exists():  # a request that is refused leaves nothing, so the home is made by the run
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(origin.model_dump_json(), encoding="utf-8")
    return origin


def preview(request: ModelRequest, home: Path) -> Origin | Preview:
    """Return the remembered origin, else what can be told before the weights are fetched."""
    source = places.open_source(request, home)
    try:
        return Origin.model_validate_json(_memo(request, source, home).read_bytes())
    except (FileNotFoundError, ValidationError):
        return source.preview()


def _memo(request: ModelRequest, source: places.Source, home: Path) -> Path:
    """Return where an origin is remembered: the name holds what the source shows of itself, so a change is another name."""
    return home / "origins" / f"{keys.digest([request.model_dump(), source.stamp])}.json"
