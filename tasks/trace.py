"""The baseline's trace: what goes into its head at every scored position, so that its logits need not be kept.

For a vocabulary of 49,152 and a hidden size of 576 that is 85 times less than logits. Two files: `trace.safetensors`
(`input_ids` int32 (windows, length), `hidden` fp16 or fp32 (windows, length - 1, hidden)) and `head.safetensors` (`weight`
fp32 (vocabulary, hidden), perhaps `bias`). Some models do more after the head; that is the transform: Gemma 2 soft-caps,
Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

from quantmill import keys
from quantmill.errors import TraceMismatch
from tasks.metrics import Floats, Ints, score

MAX_KL = 1e-6


@dataclass(frozen=True)
class Transform:
    """What turns the head's output into logits: times `scale`, then soft-capped where `softcap` is not 0."""

    scale: float = 1.0
    softcap: float = 0.0

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "Transform":
        """Read it from a model's config."""
        scale = float(config.get("logit_scale") or 1.0) / float(config.get("logits_scaling") or 1.0)
        return cls(scale=scale, softcap=float(config.get("final_logit_softcapping") or 0.0))


@dataclass(frozen=True)
class Head:
    """The output projection."""

    weight: Floats
    bias: Floats | None
    transform: Transform

    def logits(self, hidden: Floats) -> Floats:
        """Return the logits (positions, vocabulary) of head inputs (positions, hidden), in fp32."""
        logits: Floats = hidden.astype(numpy.float32) @ self.weight.T
        if self.bias is not None:
            logits += self.bias
        if self.transform.scale != 1.0:
            logits *= numpy.float32(self.transform.scale)
        if self.transform.softcap:
            cap = numpy.float32(self.transform.softcap)
            logits = numpy.tanh(logits / cap) * cap
        return logits


@dataclass(frozen=True)
class Trace:
    """A baseline's head inputs on the evaluation windows, and its head."""

    input_ids: Ints
    hidden: Floats
    head: Head

    def logits(self, window: int) -> Floats:
        """Return the baseline's logits at the scored positions of a window: (length - 1, vocabulary)."""
        return self.head.logits(self.hidden[window])


def narrowest(head: Head, inputs: Floats, forwarded: Floats) -> tuple[type[numpy.floating[Any]], float]:
    """Return the narrower of fp16 and fp32 that head inputs can be kept in, and the KL divergence that it costs.

    Args:
        head: the output projection.
        inputs: what went into it, (positions, hidden).
        forwarded: the logits that the model itself made of them, (positions, vocabulary).

    Raises:
        TraceMismatch: even in fp32 the recomputed logits are not the forwarded ones.
    """
    divergence = float("nan")
    targets = numpy.zeros(len(inputs), numpy.int32)
    for dtype in (numpy.float16, numpy.float32):
        with numpy.errstate(over="ignore"):
            kept: Floats = inputs.astype(dtype)
        if numpy.isfinite(kept).all():
            divergence = float(score(forwarded, head.logits(kept), targets).kl.mean())
            if abs(divergence) <= MAX_KL:
                return dtype, divergence
    raise TraceMismatch(
        f"logits recomputed from the head's input differ from the model's by KL {divergence:.2e}; at most {MAX_KL:g}"
    )


def save(trace: Trace, folder: Path) -> None:
    """Write both files."""
    head = {"weight": trace.head.weight} | ({"bias": trace.head.bias} if trace.head.bias is not None else {})
    transform = {"scale": trace.head.transform.scale, "softcap": trace.head.transform.softcap}
    save_file(head, folder / "head.safetensors", metadata={"transform": json.dumps(transform)})
    save_file({"input_ids": trace.input_ids, "hidden": trace.hidden}, folder / "trace.safetensors")


def load(folder: Path) -> Trace:
    """Read both files."""
    with safe_open(folder / "head.safetensors", "np") as file:
        transform = Transform(**json.loads(file.metadata()["transform"]))
        bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118 (no mapping)
        head = Head(weight=file.get_tensor("weight"), bias=bias, transform=transform)
    with safe_open(folder / "trace.safetensors", "np") as file:
        return Trace(input_ids=file.get_tensor("input_ids"), hidden=file.get_tensor("hidden"), head=head)


def head_digest(folder: Path) -> str:
    """Return the sha256 of the head's file."""
    return keys.file_sha256(folder / "head.safetensors")
