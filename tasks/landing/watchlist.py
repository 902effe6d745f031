"""The watch list: the places where base models land, and the recipe for the models of each place.

    watch:
      - {source: "hf://HuggingFaceTB/SmolLM2-*", recipe: recipes/demo.yaml, since: 2026-11-01}
      - {source: "s3://models/incoming/*", recipe: recipes/demo.yaml}
      - {source: ../landing/*, recipe: recipes/tiny.yaml, quiet_s: 60}
      - {source: "mlflow://models/*", recipe: recipes/demo.yaml}

The last part of a source is a pattern (`*`, `?`, `[abc]`) for the names at that place. If two entries match a model, only
the first entry counts, even if it skips the model. Relative paths start at the folder of the watch list. The landed model
replaces the recipe's model and its published name.
"""

import datetime
import os
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from quantmill.files.yaml_file import read_yaml
from quantmill.recipe.schemes import SCHEMES, Scheme, Watch, scheme_of

_WATCHED = {name: row.watch for name, row in SCHEMES.items() if row.watch}
_FORMS = ", ".join(watch.form for watch in _WATCHED.values())


class WatchEntry(BaseModel):
    """An entry of the watch list: one watched place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(max_length=4096, description=f"One of: {_FORMS}.")
    recipe: Path = Field(description="The recipe file for models that land there.")
    since: datetime.date = Field(
        default=datetime.date(1970, 1, 1),
        description="Models that changed last before this day are skipped, by later entries too.",
    )
    quiet_s: float = Field(
        default=60.0,
        ge=0,
        description="Folders and prefixes: seconds without a change after which a model is complete.",
    )

    @field_validator("source")
    @classmethod
    def _place_and_pattern(cls, source: str, info: ValidationInfo) -> str:
        row, watch = _watched(source)
        place, _, pattern = source.removeprefix(row.prefix).rpartition("/")
        if not pattern or not watch.place(place) or any(sign in place for sign in "*?["):
            raise ValueError(f"write it as {watch.form}")
        return source if row.prefix else _beside_the_list(source, info)

    @field_validator("recipe")
    @classmethod
    def _exists(cls, recipe: Path, info: ValidationInfo) -> Path:
        if not (path := Path(_beside_the_list(str(recipe), info))).is_file():
            raise ValueError("no such file")
        return path

    @property
    def scheme(self) -> Scheme:
        """The scheme of the place."""
        return _watched(self.source)[0]

    @property
    def settles(self) -> bool:
        """Whether models at the place may be half copied, so that `quiet_s` applies."""
        return _watched(self.source)[1].settles

    @property
    def place(self) -> str:
        """The source without its pattern."""
        return self.source.rpartition("/")[0]

    def matches(self, source: str) -> bool:
        """Return whether the entry matches a model's source."""
        place, _, name = source.rpartition("/")
        return place == self.place and self.wants(name)

    def wants(self, name: str) -> bool:
        """Return whether the pattern matches a name at the place; it never matches hidden names."""
        return not name.startswith(".") and fnmatchcase(name, self.source.rpartition("/")[2])


def _watched(source: str) -> tuple[Scheme, Watch]:
    """Return the scheme of a source and its facts on watching; raise ValueError if it cannot be watched."""
    row = scheme_of(source)
    if row is None or row.watch is None:
        raise ValueError(f"cannot be watched; allowed are {_FORMS}")
    return row, row.watch


def _beside_the_list(path: str, info: ValidationInfo) -> str:
    """Return the absolute path for a path that starts at the watch list's folder.

    Runs work in another folder, so a relative path would not do.
    """
    folder: Path = (info.context or {}).get("folder", Path.cwd())
    return os.path.normpath(folder / Path(path).expanduser())


class WatchList(BaseModel):
    """The content of the watch list's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: tuple[WatchEntry, ...] = Field(
        min_length=1, description="The entries; the first entry that matches a model counts."
    )


def read_watchlist(path: Path) -> tuple[WatchEntry, ...]:
    """Return the entries of a watch list.

    Raises:
        RequestError: the file cannot be read, or a field holds a value that is not allowed.
    """
    return read_yaml(path, WatchList).watch
