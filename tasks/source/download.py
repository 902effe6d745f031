"""Stage 1: turns a source into a `Snapshot`, a bf16 folder in the local cache.

The folder can be made again from the snapshot's origin.
"""

import shutil
import time
from pathlib import Path

from quantmill.errors import NotEnoughSpace
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest, Recipe
from quantmill.records import planning
from quantmill.records.artifact import Origin, Preview, Snapshot, StageResult
from quantmill.store.store import Store
from tasks import installed
from tasks.sandbox import Sandbox
from tasks.source import checkpoints, fields, origins, snapshots

REVISION = 2


def inspect_source(request: ModelRequest, home: Path, fetch: bool = True) -> Origin:
    """Return the origin of the recipe's model; an unchanged source is not read again.

    Args:
        request: the source and its revision.
        home: holds the cached origins and the fetched files.
        fetch: whether weights may be fetched if the source states no digests for them.

    Raises:
        SourceError: a file is not allowed, or the source is no causal language model that can be quantized.
        DownloadError: a server does not answer, or broke off.
        NotCached: weights must be fetched, and `fetch` is false.
    """
    with fields.of_model():
        return origins.inspect(request, home, fetch)


def preview_source(request: ModelRequest, home: Path) -> Origin | Preview:
    """Return the cached origin, or a preview made without the weights; raises as `inspect_source` does."""
    with fields.of_model():
        return origins.preview(request, home)


def inspect_checkpoints(recipe: Recipe, model: Origin, home: Path, fetch: bool = True) -> dict[str, Origin]:
    """Return source -> origin of the checkpoint of each `imported` variant; see `checkpoints.find`."""
    return checkpoints.find(recipe, model, lambda request: origins.inspect(request, home, fetch))


def preview_checkpoints(recipe: Recipe, model: Origin | Preview, home: Path) -> None:
    """Raise the errors of `inspect_checkpoints` that need no weights, before anything is written."""
    checkpoints.find(recipe, model, lambda request: origins.preview(request, home))


def require_space(recipe: Recipe, origin: Origin | Preview, home: Path) -> None:
    """Raise NotEnoughSpace if the disk under `home` cannot hold the run's files; writes nothing."""
    place = home.absolute()
    while not place.exists():
        place = place.parent
    scored = recipe.evaluation.samples * recipe.evaluation.sequence_length
    needed = planning.disk_bytes(origin, recipe.expand(), scored)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NotEnoughSpace(
            f"{place}: {free / 1e9:.1f} GB free, the run needs about {needed / 1e9:.1f} GB; set QUANTMILL_HOME"
        )


def fetch_snapshot(origin: Origin, store: Store, sandbox: Sandbox) -> Snapshot:
    """Return the snapshot of an origin, from the store's record if the snapshot was made before.

    Raises:
        SourceError: the source cannot be read in full.
        TokenizerMismatch: the source's tokenizer cannot be made to agree with llama.cpp's.
    """
    key = keys.stage_key(
        "snapshot",
        files=origin.digest,
        kind=origin.kind,
        revision=REVISION,
        engines=installed.locked(snapshots.packages(origin)),
    )
    if found := store.look_up("snapshot", key):
        return Snapshot.model_validate(found.value | {"origin": origin.model_dump()})
    with fields.of_model():
        snapshot = snapshots.take_in(origin, sandbox)
    result = StageResult(stage="snapshot", key=key, value=snapshot.model_dump(mode="json"), made_at=time.time())
    return Snapshot.model_validate(store.record(result).value | {"origin": origin.model_dump()})
