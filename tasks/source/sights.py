"""Types for the entries of a watched place: models, and entries that cannot be compressed (yet)."""

from collections.abc import Callable
from typing import NamedTuple

from quantmill.recipe.recipe import ModelRequest


class Sight(NamedTuple):
    """A model at a watched place, in its present state."""

    model: str
    """The model's source without a revision: the same for every revision."""
    request: ModelRequest
    """The recipe's model request for this state."""
    revision: str
    """A commit, a version, or a digest of the files."""
    files: dict[str, str]
    """Name -> a token that changes when the bytes change."""


class NotYet(NamedTuple):
    """An entry of a watched place that cannot be compressed, or cannot be compressed yet."""

    model: str
    why: str


class Found(NamedTuple):
    """A model at a watched place before its files are inspected."""

    model: str
    revision: str
    """Empty where only `look` can tell the revision."""
    changed_at: float
    """Seconds since 1970."""
    look: Callable[[], Sight]
    """Inspects the model's files; raises if they are no model that can be compressed."""
