"""A model's output projection, and what turns its output into logits.

Some models do more after the head: Gemma 2 soft-caps, Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from tasks.metrics import Floats


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

    def apply(self, logits: Any, tanh: Callable[[Any], Any]) -> Any:
        """Return the logits of what the head gave, an array of numpy's or torch's in fp32; `tanh` is that library's."""
        if self.scale != 1.0:
            logits *= self.scale
        return tanh(logits / self.softcap) * self.softcap if self.softcap else logits


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
        made: Floats = self.transform.apply(logits, numpy.tanh)
        return made
