"""The stages that must run before some variants: each with the key of its result and its function.

A method names its stages in `needs` (`quantmill/recipe/methods/`). A new stage is one row here.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from quantmill.records.artifact import Snapshot, StageResult
from quantmill.store.store import Store
from tasks import convert
from tasks.sandbox import Sandbox


class Makes(Protocol):
    """A stage function that makes a result that variants need; its `__name__` names the Prefect task."""

    __name__: str

    def __call__(self, snapshot: Snapshot, key: str, name: str, store: Store, sandbox: Sandbox) -> StageResult:
        """Return the result with stage key `key`; `name` is the model's name."""
        ...


class Need(NamedTuple):
    """One stage that must run before some variants."""

    key_of: Callable[[str, str], str]
    """(digest of a snapshot or of its core, the model's name) -> stage key."""
    make: Makes


NEEDS: dict[str, Need] = {"conversion": Need(convert.key_of, convert.convert_snapshot)}
"""Stage -> the key of its result and the function that makes the result."""
