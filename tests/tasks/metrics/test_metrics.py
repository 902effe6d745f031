"""Metrics against independent references: torch's functions in float64, and cases solved by hand."""

import math
from typing import Any

import numpy
import pytest
import torch

from tasks.metrics import arrays as metrics
from tasks.metrics import tensors as torch_metrics

RNG = numpy.random.default_rng(0)


def logits(rows: int = 37, vocabulary: int = 501, scale: float = 4.0) -> metrics.Floats:
    return (RNG.standard_normal((rows, vocabulary)) * scale).astype(numpy.float32)


def test_scores_are_torch_s_in_float64() -> None:
    reference, measured = logits(), logits()
    targets = RNG.integers(0, 501, 37).astype(numpy.int32)
    scores = metrics.score(reference, measured, targets)
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (reference, measured))
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    nll = torch.nn.functional.cross_entropy(
        torch.from_numpy(measured).double(), torch.from_numpy(targets).long(), reduction="none"
    )
    numpy.testing.assert_allclose(scores.kl, kl.numpy(), rtol=1e-12)
    numpy.testing.assert_allclose(scores.nll, nll.numpy(), rtol=1e-12)
    assert (scores.agrees == (reference.argmax(-1) == measured.argmax(-1))).all()


def test_equal_logits_have_no_divergence_whatever_is_added_to_a_row() -> None:
    reference = logits()
    scores = metrics.score(reference, reference + numpy.float32(8.0), numpy.zeros(37, numpy.int32))
    assert abs(scores.kl).max() < 1e-6
    assert scores.agrees.all()


def test_a_forbidden_token_adds_nothing() -> None:
    reference = logits(rows=2, vocabulary=4)
    reference[:, 3] = -numpy.inf
    scores = metrics.score(reference, reference, numpy.zeros(2, numpy.int32))
    assert scores.kl.tolist() == [0.0, 0.0]


def test_by_hand() -> None:
    half = numpy.zeros((1, 2), numpy.float32)
    quarter = numpy.log(numpy.array([[0.25, 0.75]], numpy.float32))
    scores = metrics.score(half, quarter, numpy.array([0], numpy.int32))
    assert scores.nll[0] == pytest.approx(math.log(4))
    assert scores.kl[0] == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-6)


def test_unigram_perplexity() -> None:
    assert metrics.unigram_perplexity(numpy.arange(8, dtype=numpy.int32)) == pytest.approx(8.0)
    assert metrics.unigram_perplexity(numpy.zeros(8, numpy.int32)) == pytest.approx(1.0)


def in_torch(reference: metrics.Floats, measured: metrics.Floats, targets: metrics.Ints) -> metrics.Scores:
    return torch_metrics.score(torch.from_numpy(reference), torch.from_numpy(measured), targets)


def test_torch_on_the_device_gives_the_same() -> None:
    reference, measured = logits(), logits()
    reference[3, 7] = measured[3, 7] = -numpy.inf
    measured[5, 100], measured[11, 5] = numpy.nan, numpy.inf
    targets = RNG.integers(0, 501, 37).astype(numpy.int32)
    one, other = metrics.score(reference, measured, targets), in_torch(reference, measured, targets)
    numpy.testing.assert_allclose(one.nll, other.nll, rtol=1e-12)
    numpy.testing.assert_allclose(one.kl, other.kl, rtol=1e-12)
    assert numpy.isnan(one.nll).nonzero()[0].tolist() == [5, 11]
    assert (numpy.delete(one.agrees, [5, 11]) == numpy.delete(other.agrees, [5, 11])).all()


@pytest.mark.parametrize("score", [metrics.score, in_torch])
def test_what_the_variant_forbids_and_the_baseline_does_not_is_infinitely_far(score: Any) -> None:
    reference, measured = logits(rows=2, vocabulary=4), logits(rows=2, vocabulary=4)
    measured[0, 3] = -numpy.inf
    scores = score(reference, measured, numpy.zeros(2, numpy.int32))
    assert scores.kl[0] == numpy.inf
    assert numpy.isfinite(scores.kl[1])
