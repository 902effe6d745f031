"""The memory of landings in the store: which revision of which model was seen, and which run took it.

    landings/<model>/<revision>.json      a revision that was seen, with its recipe: create-only, its writer announces it
    landings/<model>/<revision>.run       the run that took the landing: create-only, a second run does nothing

Both parts of the name are digests. A watcher writes the `.json` record and then announces the landing. A run that was
started for a landing writes the `.run` record before its work. So only one of two watchers announces a landing, and only
one of two announced runs works. A landing without a `.run` record is announced again at the next look, because its
announcement may have been lost.
"""

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.errors import NotFound
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest, Recipe
from quantmill.recipe.recipe_file import read_recipe
from quantmill.records.artifact import is_companion
from quantmill.store.store import Store
from tasks.landing.watchlist import WatchEntry
from tasks.source.sights import Sight

Change = Literal["new", "weights", "tokenizer", "files"]
_TOKENIZER = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model",
}  # fmt: skip


class Landing(BaseModel):
    """A revision of a model that landed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The source of the model, without a revision.")
    revision: str = Field(description="A commit, a version, or a digest of the files.")
    changed: Change = Field(
        description="What changed since the last revision: `new` (no last revision), `weights`, `tokenizer`, or `files`."
    )
    files: dict[str, str] = Field(
        description="File name -> a token that changes when the bytes change, such as an ETag."
    )
    recipe: dict[str, Any] = Field(description="The recipe that compresses this revision.")
    seen_at: float = Field(description="When the revision was seen, in seconds since 1970.")

    @property
    def key(self) -> str:
        """The key by which a run takes the landing."""
        return _key(self.model, self.revision)


def is_known(store: Store, model: str, revision: str) -> bool:
    """Return whether a revision was seen before."""
    return store.objects.size(f"{_key(model, revision)}.json") is not None


def describe(sight: Sight, entry: WatchEntry, store: Store) -> Landing | None:
    """Return the landing for a sight; None if no file of a variant changed since the last revision.

    Raises:
        RecipeError: the entry's recipe cannot be used.
    """
    before = _last(store, sight.model)
    changed = what_changed(before.files, sight.files) if before else "new"
    if changed is None:
        return None
    return Landing(
        model=sight.model,
        revision=sight.revision,
        changed=changed,
        files=sight.files,
        recipe=_recipe(entry, sight.request).model_dump(mode="json", exclude_defaults=True),
        seen_at=time.time(),
    )


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> Change | None:
    """Return what changed between two revisions, judged by file names; None if nothing changed.

    Changed weights count before a changed tokenizer, and a changed tokenizer counts before other files.
    """
    names = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if any(not is_companion(name) and name != "README.md" for name in names - _TOKENIZER):
        return "weights"
    return "tokenizer" if names & _TOKENIZER else "files" if names else None


def claim(store: Store, landing: Landing) -> bool:
    """Record a landing; return False if another watcher recorded it and so announces it."""
    return store.objects.create(f"{landing.key}.json", keys.canonical(landing))


def begin(store: Store, key: str, run_id: str) -> bool:
    """Take a landing for a run; return False if another run has it.

    A run that is restarted keeps the landing that it took.

    Raises:
        NotFound: no landing has this key.
    """
    if not key.startswith("landings/") or store.objects.size(f"{key}.json") is None:
        raise NotFound(f"landing: {key!r}: nothing of that key was seen")
    if store.objects.create(f"{key}.run", run_id.encode()):
        return True
    held = store.objects.read(f"{key}.run")
    return held is not None and held.data.decode() == run_id


def unbegun(store: Store) -> list[Landing]:
    """Return the landings that no run took, oldest first."""
    names = {listed.key for listed in store.objects.under("landings/")}
    keys_ = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    found = [_read(store, key) for key in keys_ if f"{key}.run" not in names]
    return sorted((landing for landing in found if landing), key=lambda landing: landing.seen_at)


def _recipe(entry: WatchEntry, request: ModelRequest) -> Recipe:
    recipe = read_recipe(entry.recipe)
    publish = recipe.publish.model_copy(update={"model": ""})  # the published name follows the model that landed
    return recipe.model_copy(update={"model": request, "publish": publish})


def _last(store: Store, model: str) -> Landing | None:
    folder = _key(model, "").rpartition("/")[0]
    keys_ = [listed.key for listed in store.objects.under(f"{folder}/") if listed.key.endswith(".json")]
    found = [landing for key in keys_ if (landing := _read(store, key.removesuffix(".json")))]
    return max(found, key=lambda landing: landing.seen_at, default=None)


def _read(store: Store, key: str) -> Landing | None:
    held = store.objects.read(f"{key}.json")
    try:
        return Landing.model_validate_json(held.data) if held else None
    except ValidationError:
        return None  # another release wrote the record: the model's next revision counts as `new`


def _key(model: str, revision: str) -> str:
    return f"landings/{keys.digest(model)[:32]}/{keys.digest(revision)[:32]}"
