"""The protocols of the models that runtime modules load, and the machine that they run on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quantmill.records.planning import SCORED_ROWS
from tasks.metrics import Floats, Ints
from tasks.runtimes.head import Head

ROWS = SCORED_ROWS


@dataclass(frozen=True)
class Machine:
    """The device, threads and hardware that a model runs on."""

    device: str
    threads: int
    hardware: str
    placement: Mapping[str, Any] | None = None
    """Options of transformers that place the layers on devices; None: all layers on `device`."""


class LoadedModel(Protocol):
    """A model that was loaded from an artifact folder."""

    compute_dtype: str
    kernel: str

    def logits(self, ids: Ints) -> Floats:
        """Return the logits (length, vocabulary) after each of `ids` (length,), whatever was computed before."""
        ...

    def pieces(self, ids: Ints) -> Iterator[Any]:
        """Yield the same logits in order, at most `ROWS` positions at a time.

        The pieces are the library's arrays on its device. The next piece may overwrite the previous piece.
        """
        ...

    def reader(self, head: Head) -> Callable[[Floats], Any]:
        """Return a function that computes fp32 logits from head inputs (positions, hidden).

        Its logits are arrays of the same kind as those of `pieces`.
        """
        ...

    def start(self, ids: Ints) -> int:
        """Read a prompt into an empty cache and return the likeliest next token."""
        ...

    def step(self, token: int) -> int:
        """Append one token to the cache and return the likeliest next one."""
        ...

    def text(self, tokens: list[int]) -> str:
        """Decode tokens into text."""
        ...

    def close(self) -> None:
        """Free the memory of the weights."""
        ...


class TracedModel(LoadedModel, Protocol):
    """A model that can be the baseline, because it shows the inputs of its head."""

    def traced_pieces(self, ids: Ints) -> Iterator[tuple[Floats, Any]]:
        """Yield each piece's head inputs (positions, hidden) with its logits."""
        ...

    def head(self) -> Head:
        """Return the output projection in fp32."""
        ...
