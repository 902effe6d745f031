"""The gate: each limit exactly at, just above and just below; gibberish under any policy; what failed stays failed."""

import math
from typing import Any

import pytest

from quantmill.errors import OutOfMemory
from quantmill.recipe import GatePolicy
from quantmill.report import Outcome
from tasks.gate import decide
from tests.samples import outcome

LOOSE = GatePolicy(max_perplexity_ratio=100, max_mean_kl=100, max_p99_kl=1000, min_top1_agreement=0, max_size_ratio=100)
BASE = outcome("baseline-bf16", perplexity=16.0, size=1000)


@pytest.mark.parametrize(
    ("policy", "figures", "status", "words"),
    [
        ({"max_perplexity_ratio": 1.25}, {"perplexity": 20.0}, "accepted", ""),
        ({"max_perplexity_ratio": 1.25}, {"perplexity": 20.0001}, "rejected", "perplexity ratio 1.25001 exceeds 1.25"),
        ({"max_perplexity_ratio": 1.25}, {"perplexity": 19.9}, "accepted", ""),
        ({"max_mean_kl": 0.2}, {"mean_kl": 0.2}, "accepted", ""),
        ({"max_mean_kl": 0.2}, {"mean_kl": 0.2001}, "rejected", "mean KL 0.2001 exceeds 0.2"),
        ({"max_mean_kl": 0.2}, {"mean_kl": 0.20000000000000004}, "rejected", "mean KL 0.20000000000000004 exceeds 0.2"),
        ({"min_top1_agreement": 0.8}, {"top1": 0.79999999}, "rejected", "top-1 agreement 0.79999999 is below 0.8"),
        ({"max_mean_kl": 0.0}, {"mean_kl": 0.0}, "accepted", ""),
        ({"max_mean_kl": 0.2}, {"mean_kl": math.nan}, "rejected", "mean KL nan exceeds 0.2"),
        ({"max_p99_kl": 2.0}, {"p99_kl": 2.0}, "accepted", ""),
        ({"max_p99_kl": 2.0}, {"p99_kl": 2.1}, "rejected", "99th percentile of KL 2.1 exceeds 2"),
        ({"min_top1_agreement": 0.8}, {"top1": 0.8}, "accepted", ""),
        ({"min_top1_agreement": 0.8}, {"top1": 0.7999}, "rejected", "top-1 agreement 0.7999 is below 0.8"),
        ({"max_size_ratio": 0.5}, {"size": 500}, "accepted", ""),
        ({"max_size_ratio": 0.5}, {"size": 501}, "rejected", "size ratio 0.501 exceeds 0.5"),
    ],
)
def test_each_limit(policy: dict[str, float], figures: dict[str, Any], status: str, words: str) -> None:
    verdict = decide(outcome("v", **figures), BASE, LOOSE.model_copy(update=policy))
    assert (verdict.status, "; ".join(verdict.reasons)) == (status, words)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"perplexity": 300.1, "unigram": 300.0}, "worse than 300.0"),
        ({"perplexity": math.nan}, "gibberish"),
        ({"perplexity": math.inf}, "gibberish"),
        ({"distinct": 1}, "repeats one token"),
    ],
)
def test_gibberish_is_rejected_under_any_policy(figures: dict[str, Any], words: str) -> None:
    verdict = decide(outcome("v", **figures), BASE, LOOSE)
    assert verdict.status == "rejected"
    assert words in verdict.reasons[0]


def test_all_reasons_are_given() -> None:
    verdict = decide(outcome("v", perplexity=40.0, mean_kl=3.0, top1=0.1), BASE, GatePolicy(min_top1_agreement=0.5))
    assert len(verdict.reasons) == 3


def test_what_failed_stays_failed_with_its_cause() -> None:
    failed = Outcome(name="v", error="OutOfMemory", message="held 30 GB")
    assert decide(failed, BASE, LOOSE).reasons == (f"OutOfMemory: held 30 GB; try this: {OutOfMemory.advice}",)
    assert decide(failed, BASE, LOOSE).status == "failed"
    verdict = decide(outcome("v"), Outcome(name="baseline-bf16", error="Killed", message="by SIGKILL"), LOOSE)
    assert (verdict.status, verdict.reasons) == ("failed", ("the baseline failed: Killed: by SIGKILL",))
