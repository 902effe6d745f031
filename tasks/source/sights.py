"""What a look at a watched place finds: models that can be compressed, and what is not, or not yet, one."""

from collections.abc import Callable
from typing import NamedTuple

from quantmill.recipe.recipe import ModelRequest


class Sight(NamedTuple):
    """A model at a watched place, in the state that it has now."""

    model: str
    """What stays the same from revision to revision."""
    request: ModelRequest
    """What a recipe asks for to get this state."""
    revision: str
    """A commit, a version, or a digest of the files."""
    files: dict[str, str]
    """Name -> a token that changes when the bytes change."""


class NotYet(NamedTuple):
    """Something at a watched place that is not, or not yet, a model that can be compressed."""

    model: str
    why: str


class Found(NamedTuple):
    """A model at a watched place, before a closer look."""

    model: str
    revision: str
    """Empty where only the closer look tells it."""
    changed_at: float
    """Seconds since 1970."""
    look: Callable[[], Sight]
    """Raises where it is no model that can be compressed."""
