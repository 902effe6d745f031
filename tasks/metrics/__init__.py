"""Logits, of numpy or torch, -> log-likelihood, KL divergence and agreement at each position, on the device where they are."""

from typing import Any

import numpy

from tasks.metrics import arrays
from tasks.metrics.arrays import Floats, Ints, Scores, join, unigram_perplexity

__all__ = ["Floats", "Ints", "Scores", "join", "score", "unigram_perplexity"]


def score(reference: Any, logits: Any, targets: Ints) -> Scores:
    """Return the scores of `logits` (positions, vocabulary) at `targets` (positions,) against `reference` logits."""
    if isinstance(logits, numpy.ndarray):
        return arrays.score(reference, logits, targets)
    from tasks.metrics import tensors

    return tensors.score(reference, logits, targets)
