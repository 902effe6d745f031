"""What is tried after a job ran out of memory: cheaper settings of the same variant, in the order of what they cost."""

from collections.abc import Iterator
from typing import NamedTuple

from quantmill.recipe.recipe import VariantSpec


class Attempt(NamedTuple):
    """One way to make a variant; `words` says what was given up, and is empty for the first."""

    words: str
    spec: VariantSpec
    device: str


def attempts(spec: VariantSpec, device: str) -> Iterator[Attempt]:
    """Yield the variant as it was asked for, then with less memory.

    Engines that work layer by layer from the start, or keep finished layers on the disk, have nothing to give up.
    """
    yield Attempt("", spec, device)
    if cheaper := spec.options.cheaper():
        options, words = cheaper
        yield Attempt(words, spec.with_options(options), device)
    if device != "cpu" and "cpu" in spec.row.devices and not spec.row.calibrated:
        yield Attempt("quantized on the processor", spec, "cpu")
