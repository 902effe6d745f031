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

_KINDS = ("hf", "s3", "mlflow")


class WatchEntry(BaseModel):
    """One place that is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(max_length=4096, description="hf://org/*, s3://bucket/prefix/*, mlflow://models/* or folder/*.")
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
        scheme, mark, rest = source.partition("://")
        if mark and scheme not in _KINDS:
            raise ValueError(f"unknown place; allowed: {', '.join(f'{kind}://' for kind in _KINDS)} and folders")
        place, slash, pattern = (rest if mark else source).rpartition("/")
        parts = place.split("/")
        whole = {"hf": len(parts) == 1, "mlflow": place == "models", "s3": True}.get(scheme if mark else "", True)
        if not slash or not place or not pattern or not whole or any(sign in place for sign in "*?["):
            raise ValueError(
                "write it as hf://org/pattern, s3://bucket/prefix/pattern, mlflow://models/pattern or folder/pattern"
            )
        return source if mark else _beside_the_list(source, info)

    @field_validator("recipe")
    @classmethod
    def _exists(cls, recipe: Path, info: ValidationInfo) -> Path:
        if not (path := Path(_beside_the_list(str(recipe), info))).is_file():
            raise ValueError("no such file")
        return path

    @property
    def kind(self) -> str:
        """`hf`, `s3`, `mlflow` or `folder`."""
        return self.source.partition("://")[0] if "://" in self.source else "folder"

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
