"""What a runtime module gives: `load(folder, machine, context, scoring)` and `PACKAGE`, the package whose version counts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quantmill.records.planning import SCORED_ROWS
from tasks.metrics import Floats, Ints
from tasks.runtimes.head import Head

ROWS = SCORED_ROWS


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

    def pieces(self, ids: Ints) -> Iterator[Any]:
        """Yield the same logits in order, at most `ROWS` positions at a time, as arrays of the library where it computes.

        A piece is overwritten when the next one is asked for.
        """
        ...

    def reader(self, head: Head) -> Callable[[Floats], Any]:
        """Return what makes logits, arrays of the same kind, of head inputs (positions, hidden): in fp32."""
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


class TracedModel(LoadedModel, Protocol):
    """A model that can be the baseline: what goes into its head can be seen."""

    def traced_pieces(self, ids: Ints) -> Iterator[tuple[Floats, Any]]:
        """Yield the pieces with what goes into the head (positions, hidden)."""
        ...

    def head(self) -> Head:
        """Return the output projection in fp32."""
        ...
