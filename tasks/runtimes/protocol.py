"""What a runtime module gives: `load(folder, machine, context, scoring)` and `PACKAGE`, the package whose version counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.metrics import Floats, Ints


@dataclass(frozen=True)
class Machine:
    """Where a job works."""

    device: str
    threads: int
    hardware: str
    placement: Mapping[str, Any] | None = None
    """What transformers is told of where layers go; None: all on the device."""


class LoadedModel(Protocol):
    """A model ready to predict."""

    compute_dtype: str
    kernel: str

    def logits(self, ids: Ints) -> Floats:
        """Return the logits (length, vocabulary) after each of `ids` (length,); earlier calls leave no trace."""
        ...

    def start(self, ids: Ints) -> int:
        """Read a prompt into an empty cache and return the likeliest next token."""
        ...

    def step(self, token: int) -> int:
        """Append one token to what was read and return the likeliest next one."""
        ...

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        ...

    def close(self) -> None:
        """Free the weights."""
        ...
