"""Scores logits in numpy, in float64: log-likelihood, KL divergence and agreement at each position.

Perplexity is exp of the mean negative log likelihood. The divergence is KL(P || Q) = sum P (log P - log Q) over the whole
vocabulary, in nats per position, with P the baseline and Q the variant (Kullback and Leibler 1951). With logits p and q
this equals sum P (p - q) - log sum exp p + log sum exp q, so each side is exponentiated once. `tensors.py` computes the
same in torch.
"""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float32]
Doubles = NDArray[numpy.float64]
Ints = NDArray[numpy.int32]

CHUNK = 8  # rows in float64 at a time: with a vocabulary of 150,000, an array takes 10 MB


@dataclass(frozen=True)
class Scores:
    """One value for each scored position; `nll` is NaN where a logit is NaN or infinite."""

    nll: Doubles
    kl: Doubles
    agrees: NDArray[numpy.bool_]


def score(reference: Floats, logits: Floats, targets: Ints) -> Scores:
    """Return the scores of `logits` against `reference` logits at each position.

    The logits have shape (positions, vocabulary), `targets` has shape (positions,). A token with P = 0 (a logit of minus
    infinity) adds nothing to the divergence, as in the limit.
    """
    nll, kl = numpy.empty(len(targets)), numpy.empty(len(targets))
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        with numpy.errstate(invalid="ignore"):  # infinite logits: NaN is the answer
            q, p = (_shifted(part[rows]) for part in (logits, reference))
            log_sum = numpy.log(numpy.exp(q).sum(axis=-1))
            nll[rows] = log_sum - q[numpy.arange(len(q)), targets[rows]]
            numpy.subtract(p, q, out=q)
            weights = numpy.exp(p, out=p)
            total = weights.sum(axis=-1)
            numpy.multiply(weights, q, out=q)
            if numpy.isnan(sums := q.sum(axis=-1)).any():  # 0 times infinity
                q[weights == 0] = 0.0
                sums = q.sum(axis=-1)
            kl[rows] = sums / total - numpy.log(total) + log_sum
    return Scores(nll=nll, kl=kl, agrees=logits.argmax(axis=-1) == reference.argmax(axis=-1))


def _shifted(logits: Floats) -> Doubles:
    """Return logits in float64, each row shifted so that its largest logit is 0."""
    wide = logits.astype(numpy.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide


def join(parts: list[Scores]) -> Scores:
    """Concatenate the scores of several pieces or windows."""
    return Scores(
        nll=numpy.concatenate([part.nll for part in parts]),
        kl=numpy.concatenate([part.kl for part in parts]),
        agrees=numpy.concatenate([part.agrees for part in parts]),
    )


def unigram_perplexity(targets: Ints) -> float:
    """Return the perplexity of the best predictor that ignores context.

    It is exp of the entropy of the text's own token frequencies.
    """
    counts = numpy.unique(targets, return_counts=True)[1].astype(numpy.float64)
    shares = counts / counts.sum()
    return float(numpy.exp(-(shares * numpy.log(shares)).sum()))
