"""A model's output projection (the head), and the transform from its output to logits.

Some models transform the head's output: Gemma 2 soft-caps it, Cohere multiplies it by `logit_scale`, Granite divides it by
`logits_scaling`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from tasks.metrics import Floats


@dataclass(frozen=True)
class Transform:
    """The transform from the head's output to logits: a scale, then a soft cap if `softcap` is not 0."""

    scale: float = 1.0
    softcap: float = 0.0

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "Transform":
        """Return the transform that a model's config states."""
        scale = float(config.get("logit_scale") or 1.0) / float(config.get("logits_scaling") or 1.0)
        return cls(scale=scale, softcap=float(config.get("final_logit_softcapping") or 0.0))

    def apply(self, logits: Any, tanh: Callable[[Any], Any]) -> Any:
        """Return the logits for the head's output.

        The output is an fp32 array of numpy or torch, and `tanh` is the function of the same library. The call may change the
        array.
        """
        if self.scale != 1.0:
            logits *= self.scale
        return tanh(logits / self.softcap) * self.softcap if self.softcap else logits


@dataclass(frozen=True)
class Head:
    """The output projection of a model, in fp32."""

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
