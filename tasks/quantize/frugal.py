"""The attempts to make a variant, each with less memory than the one before.

If a job runs out of memory, the next attempt runs. The attempts that cost least come first.
"""

from collections.abc import Iterator
from typing import NamedTuple

from quantmill.recipe.recipe import VariantSpec


class Attempt(NamedTuple):
    """One way to make a variant; `words` says what was given up, and is empty for the first attempt."""

    words: str
    spec: VariantSpec
    device: str


def attempts(spec: VariantSpec, device: str) -> Iterator[Attempt]:
    """Yield the attempt with the requested settings, then attempts that need less memory.

    Engines that always work layer by layer, or keep finished layers on the disk, have no setting to give up.
    """
    yield Attempt("", spec, device)
    if cheaper := spec.options.cheaper():
        options, words = cheaper
        yield Attempt(words, spec.with_options(options), device)
    if device != "cpu" and "cpu" in spec.row.devices and not spec.row.calibrated:
        yield Attempt("quantized on the processor", spec, "cpu")
