"""The baseline's trace: its head's inputs at every scored position, stored in place of its logits.

For a vocabulary of 49,152 and a hidden size of 576, the trace is 85 times smaller than the logits. It has two files:
`trace.safetensors` with `input_ids` int32 (windows, length) and `hidden` fp16 or fp32 (windows, length - 1, hidden), and
`head.safetensors` with `weight` fp32 (vocabulary, hidden) and, for some models, `bias`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from quantmill.errors import TraceMismatch
from quantmill.files import keys
from tasks import arithmetic
from tasks.metrics import Floats, Ints
from tasks.runtimes import Head, Transform


@dataclass(frozen=True)
class Trace:
    """A baseline's head inputs on the evaluation windows, and its head."""

    input_ids: Ints
    hidden: Any
    """The head inputs (windows, length - 1, hidden), fp16 or fp32: an array, or a lazy slice of a safetensors file."""
    head: Head

    def inputs(self, window: int, positions: slice) -> Floats:
        """Return the head inputs at some scored positions of a window."""
        inputs: Floats = self.hidden[window : window + 1, positions][0]
        return inputs


def is_same(divergence: float, compute_dtype: str) -> bool:
    """Return whether the model's arithmetic explains the divergence.

    The divergence is the mean KL between the model's logits and the logits recomputed in fp32.
    """
    return abs(divergence) <= arithmetic.trace_tolerance(compute_dtype)


def require_same(divergence: float, compute_dtype: str) -> None:
    """Raise TraceMismatch if the arithmetic does not explain the divergence (see `is_same`).

    Then the model does more between head and logits than `Transform` knows.
    """
    if not is_same(divergence, compute_dtype):
        raise TraceMismatch(
            f"logits recomputed from the head's input differ from the model's ({compute_dtype}) by KL {divergence:.2e};"
            f" allowed is at most {arithmetic.trace_tolerance(compute_dtype):g}"
        )


def save(trace: Trace, folder: Path) -> None:
    """Write the trace's two files to a folder."""
    head = {"weight": trace.head.weight} | ({"bias": trace.head.bias} if trace.head.bias is not None else {})
    transform = {"scale": trace.head.transform.scale, "softcap": trace.head.transform.softcap}
    save_file(head, folder / "head.safetensors", metadata={"transform": json.dumps(transform)})
    save_file({"input_ids": trace.input_ids, "hidden": trace.hidden}, folder / "trace.safetensors")


def load(folder: Path) -> Trace:
    """Read a trace from a folder; the head inputs are read only when they are needed."""
    with safe_open(folder / "head.safetensors", "np") as file:
        transform = Transform(**json.loads(file.metadata()["transform"]))
        bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118 (no mapping)
        head = Head(weight=file.get_tensor("weight"), bias=bias, transform=transform)
    made: Any = safe_open(folder / "trace.safetensors", "np")
    return Trace(input_ids=made.get_tensor("input_ids"), hidden=made.get_slice("hidden"), head=head)


def head_digest(folder: Path) -> str:
    """Return the sha256 of a trace's `head.safetensors`."""
    return keys.file_sha256(folder / "head.safetensors")
