"""The baseline's trace: what goes into its head at every scored position, so that its logits need not be kept.

For a vocabulary of 49,152 and a hidden size of 576 that is 85 times less than logits. Two files: `trace.safetensors`
(`input_ids` int32 (windows, length), `hidden` fp16 or fp32 (windows, length - 1, hidden)) and `head.safetensors` (`weight`
fp32 (vocabulary, hidden), perhaps `bias`).
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
    """(windows, length - 1, hidden), fp16 or fp32: an array, or a tensor in a file of which only what is asked for is read."""
    head: Head

    def inputs(self, window: int, positions: slice) -> Floats:
        """Return what goes into the head at these of a window's scored positions."""
        inputs: Floats = self.hidden[window : window + 1, positions][0]
        return inputs


def is_same(divergence: float, compute_dtype: str) -> bool:
    """Return whether the model's arithmetic explains the mean KL between its logits and those recomputed in fp32."""
    return abs(divergence) <= arithmetic.trace_tolerance(compute_dtype)


def require_same(divergence: float, compute_dtype: str) -> None:
    """Raise TraceMismatch where it does not: the logits are not the head's output alone."""
    if not is_same(divergence, compute_dtype):
        raise TraceMismatch(
            f"logits recomputed from the head's input differ from the model's ({compute_dtype}) by KL {divergence:.2e};"
            f" at most {arithmetic.trace_tolerance(compute_dtype):g}"
        )


def save(trace: Trace, folder: Path) -> None:
    """Write both files."""
    head = {"weight": trace.head.weight} | ({"bias": trace.head.bias} if trace.head.bias is not None else {})
    transform = {"scale": trace.head.transform.scale, "softcap": trace.head.transform.softcap}
    save_file(head, folder / "head.safetensors", metadata={"transform": json.dumps(transform)})
    save_file({"input_ids": trace.input_ids, "hidden": trace.hidden}, folder / "trace.safetensors")


def load(folder: Path) -> Trace:
    """Read both files; the head inputs as they are asked for."""
    with safe_open(folder / "head.safetensors", "np") as file:
        transform = Transform(**json.loads(file.metadata()["transform"]))
        bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118 (no mapping)
        head = Head(weight=file.get_tensor("weight"), bias=bias, transform=transform)
    made: Any = safe_open(folder / "trace.safetensors", "np")
    return Trace(input_ids=made.get_tensor("input_ids"), hidden=made.get_slice("hidden"), head=head)


def head_digest(folder: Path) -> str:
    """Return the sha256 of the head's file."""
    return keys.file_sha256(folder / "head.safetensors")
