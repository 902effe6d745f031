"""Stage 1: a source becomes a `Snapshot`, a bf16 folder in the local cache that can be made again from its origin."""

import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from quantmill import keys, planning
from quantmill.artifact import Origin, Snapshot, StageResult
from quantmill.errors import NotEnoughSpace
from quantmill.recipe import ModelRequest, Recipe
from quantmill.store.protocol import Store
from tasks import engines, snapshots, sources
from tasks.sandbox import Sandbox

REVISION = 1


def inspect_source(request: ModelRequest, home: Path) -> Origin:
    """Return what lies at the source; a source whose sizes and times did not change is not read again.

    Raises:
        SourceError: a file is not allowed, or it is no causal language model that can be quantized.
    """
    try:
        return Origin.model_validate_json(_memo(request, home).read_bytes())
    except (FileNotFoundError, ValidationError):
        return sources.inspect(request)


def require_space(recipe: Recipe, origin: Origin, home: Path) -> None:
    """Raise NotEnoughSpace where the disk under `home` cannot hold what the recipe makes; nothing is written."""
    place = home.absolute()
    while not place.exists():
        place = place.parent
    needed = planning.disk_bytes(origin, recipe.expand())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NotEnoughSpace(
            f"{place}: {free / 1e9:.1f} GB free, the run needs about {needed / 1e9:.1f} GB; set QUANTMILL_HOME"
        )


def fetch_snapshot(origin: Origin, store: Store, sandbox: Sandbox) -> Snapshot:
    """Return the snapshot of an origin; where it was taken in before, from the store's record.

    Raises:
        SourceError: the source cannot be read in full.
        TokenizerMismatch: its tokenizer cannot be made to agree with llama.cpp's.
    """
    key = keys.stage_key(
        "snapshot", files=origin.digest, kind=origin.kind, revision=REVISION, engines=engines.locked(snapshots.PACKAGES)
    )
    memo = _memo(origin.request, sandbox.home)
    if found := store.look_up("snapshot", key):
        _remember(origin, memo)
        return Snapshot.model_validate(found.value | {"origin": origin.model_dump()})
    snapshot = snapshots.take_in(origin, sandbox)
    _remember(origin, memo)
    result = StageResult(stage="snapshot", key=key, value=snapshot.model_dump(mode="json"), made_at=time.time())
    return Snapshot.model_validate(store.record(result).value | {"origin": origin.model_dump()})


def _remember(origin: Origin, memo: Path) -> None:
    if not memo.exists():
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(origin.model_dump_json(), encoding="utf-8")


def _memo(request: ModelRequest, home: Path) -> Path:
    """Return where an origin is remembered: the name holds every file's size and time, so a change is another name."""
    path = sources.locate(request.source)
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    seen = [[str(file), (state := file.stat()).st_size, state.st_mtime_ns, state.st_ino] for file in inside]
    return home / "origins" / f"{keys.digest([request.model_dump(), seen])}.json"
