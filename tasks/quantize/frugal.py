"""What is tried after a job ran out of memory: cheaper settings of the same variant, in the order of what they cost."""

from collections.abc import Iterator
from typing import NamedTuple

from quantmill.recipe.variants import VariantSpec


class Attempt(NamedTuple):
    """One way to make a variant; `words` says what was given up, and is empty for the first."""

    words: str
    spec: VariantSpec
    device: str


def attempts(spec: VariantSpec, device: str) -> Iterator[Attempt]:
    """Yield the variant as it was asked for, then with less memory.

    GPTQ, AWQ and HQQ work layer by layer from the start, and GPTQModel keeps finished layers on the disk: nothing to give up.
    """
    yield Attempt("", spec, device)
    if (spec.batch_size or 1) > 1:
        spare = spec.model_copy(update={"batch_size": 1, "low_memory": True})
        yield Attempt(f"batch_size 1 in place of {spec.batch_size}", spare, device)
    if device != "cpu" and "cpu" in spec.row.devices and not spec.row.calibrated:
        yield Attempt("quantized on the processor", spec, "cpu")
