"""Arrays -> numbers: perplexity, KL divergence and agreement, elementwise and summed in float64.

Perplexity is exp of the mean negative log likelihood; the divergence is KL(P || Q) = sum P (log P - log Q) over the whole
vocabulary, in nats per position, P the baseline and Q the variant (Kullback and Leibler 1951).
"""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float32]
Doubles = NDArray[numpy.float64]
Ints = NDArray[numpy.int32]

_ROWS = 16  # rows at a time: a chunk of a 150,000-token vocabulary in float64 stays under 20 MB


@dataclass(frozen=True)
class Scores:
    """One value for each scored position."""

    nll: Doubles
    kl: Doubles
    agrees: NDArray[numpy.bool_]


def log_softmax(logits: Floats) -> Doubles:
    """Return log-probabilities (rows, vocabulary) in float64."""
    wide = logits.astype(numpy.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= numpy.log(numpy.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def score(reference: Floats, logits: Floats, targets: Ints) -> Scores:
    """Return the scores of `logits` (positions, vocabulary) at `targets` (positions,) against `reference` logits.

    Where P is 0 (a logit of minus infinity) a position adds nothing, as in the limit.
    """
    nll, kl = numpy.empty(len(targets)), numpy.empty(len(targets))
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        q, p = log_softmax(logits[rows]), log_softmax(reference[rows])
        nll[rows] = -q[numpy.arange(len(q)), targets[rows]]
        weights = numpy.exp(p)
        with numpy.errstate(invalid="ignore"):
            kl[rows] = numpy.where(weights > 0, weights * (p - q), 0.0).sum(axis=-1)
    return Scores(nll=nll, kl=kl, agrees=logits.argmax(axis=-1) == reference.argmax(axis=-1))


def join(parts: list[Scores]) -> Scores:
    """Return the scores of several windows as one."""
    return Scores(
        nll=numpy.concatenate([part.nll for part in parts]),
        kl=numpy.concatenate([part.kl for part in parts]),
        agrees=numpy.concatenate([part.agrees for part in parts]),
    )


def unigram_perplexity(targets: Ints) -> float:
    """Return the perplexity of the best predictor that ignores context: exp of the entropy of the text's own counts."""
    counts = numpy.unique(targets, return_counts=True)[1].astype(numpy.float64)
    shares = counts / counts.sum()
    return float(numpy.exp(-(shares * numpy.log(shares)).sum()))
