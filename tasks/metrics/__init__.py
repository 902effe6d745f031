"""Scores logits at each position: log-likelihood, KL divergence, agreement.

The logits are arrays of numpy or torch; the computation runs on their device.
"""

from typing import Any

import numpy

from tasks.metrics import arrays
from tasks.metrics.arrays import Floats, Ints, Scores, join, unigram_perplexity

__all__ = ["Floats", "Ints", "Scores", "join", "score", "unigram_perplexity"]


def score(reference: Any, logits: Any, targets: Ints) -> Scores:
    """Return the scores of `logits` against `reference` logits at each position.

    The logits have shape (positions, vocabulary), `targets` has shape (positions,).
    """
    if isinstance(logits, numpy.ndarray):
        return arrays.score(reference, logits, targets)
    from tasks.metrics import tensors

    return tensors.score(reference, logits, targets)
