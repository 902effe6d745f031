"""The watch list: where base models land, and which recipe each of them is compressed by.

    watch:
      - {source: "hf://HuggingFaceTB/SmolLM2-*", recipe: recipes/demo.yaml, since: 2026-11-01}
      - {source: "s3://models/incoming/*", recipe: recipes/demo.yaml}
      - {source: ../landing/*, recipe: recipes/tiny.yaml, quiet_s: 60}
      - {source: "mlflow://models/*", recipe: recipes/demo.yaml}

The last part of a source is a pattern (`*`, `?`, `[abc]`) of the names that lie there. Where two entries match a model, it
is the first one's, also where that one leaves it alone. Paths are taken from the list's own folder. Of the recipe everything
is taken but the model and the name that it is published under.
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
    """One place that is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(max_length=4096, description=f"One of: {_FORMS}.")
    recipe: Path = Field(description="The recipe file for models that land there.")
    since: datetime.date = Field(
        default=datetime.date(1970, 1, 1),
        description="What was changed last before this day is left alone, by later entries too.",
    )
    quiet_s: float = Field(
        default=60.0, ge=0, description="Folders and prefixes: seconds without a change before a model counts as whole."
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
        """The scheme of the models there."""
        return _watched(self.source)[0]

    @property
    def settles(self) -> bool:
        """Whether a model there may be half copied, so that `quiet_s` counts."""
        return _watched(self.source)[1].settles

    @property
    def place(self) -> str:
        """The source without the pattern."""
        return self.source.rpartition("/")[0]

    def matches(self, source: str) -> bool:
        """Return whether a model of this source is one of those that are looked for."""
        place, _, name = source.rpartition("/")
        return place == self.place and self.wants(name)

    def wants(self, name: str) -> bool:
        """Return whether a name that lies at the place is one of those that are looked for; hidden ones never are."""
        return not name.startswith(".") and fnmatchcase(name, self.source.rpartition("/")[2])


def _watched(source: str) -> tuple[Scheme, Watch]:
    """Return the scheme of a source and how it is watched; ValueError where it cannot be."""
    row = scheme_of(source)
    if row is None or row.watch is None:
        raise ValueError(f"cannot be watched; allowed are {_FORMS}")
    return row, row.watch


def _beside_the_list(path: str, info: ValidationInfo) -> str:
    """Return a path from the root of the disk: runs work in another folder."""
    folder: Path = (info.context or {}).get("folder", Path.cwd())
    return os.path.normpath(folder / Path(path).expanduser())


class WatchList(BaseModel):
    """The file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: tuple[WatchEntry, ...] = Field(min_length=1, description="Places; the first that matches a model counts.")


def read_watchlist(path: Path) -> tuple[WatchEntry, ...]:
    """Return the entries of a watch list.

    Raises:
        RequestError: the file cannot be read, or a field holds a value that is not allowed.
    """
    return read_yaml(path, WatchList).watch
