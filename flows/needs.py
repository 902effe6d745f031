"""What variants need made first: a table of stages, each with the key of its result and the function that makes it.

A method names its stages in `needs` (`quantmill/recipe/methods/`). A new stage is one row here.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from quantmill.records.artifact import Snapshot, StageResult
from quantmill.store.store import Store
from tasks import convert
from tasks.sandbox import Sandbox


class Makes(Protocol):
    """A stage function that makes what variants need; the run shows it under its name."""

    __name__: str

    def __call__(self, snapshot: Snapshot, key: str, name: str, store: Store, sandbox: Sandbox) -> StageResult:
        """Return the result with stage key `key`; `name` is the model's name."""
        ...


class Need(NamedTuple):
    """A stage that variants need."""

    key_of: Callable[[str, str], str]
    """(digest of a snapshot or of its core, the model's name) -> stage key."""
    make: Makes


NEEDS: dict[str, Need] = {"conversion": Need(convert.key_of, convert.convert_snapshot)}
"""Stage -> how its result is found and made."""
