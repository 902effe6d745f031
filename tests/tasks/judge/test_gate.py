"""The gate: each limit at, just above, just below; gibberish is rejected; failures stay failures."""

import math
from typing import Any

import pytest

from flows.jobs import Plan, noise_floor
from quantmill.errors import OutOfMemory
from quantmill.recipe.recipe import GatePolicy
from quantmill.records.report import Outcome
from tasks.judge.gate import decide
from tasks.marks import marks_of
from tests.samples import job, outcome

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


@pytest.mark.parametrize(
    ("base", "figures", "words"),
    [
        ({"perplexity": 310.0, "unigram": 300.0}, {"perplexity": 311.0, "unigram": 300.0}, ""),
        ({"perplexity": 310.0, "unigram": 300.0}, {"perplexity": 311.0, "unigram": 300.0, "distinct": 1}, "repeats one token"),
        ({"distinct": 1}, {"distinct": 1}, ""),
        ({"distinct": 1}, {"distinct": 1, "perplexity": 301.0}, "worse than 300.0"),
        ({"perplexity": 310.0, "unigram": 300.0}, {"perplexity": math.nan}, "perplexity ratio nan exceeds 100"),
    ],
)  # fmt: skip
def test_a_rule_that_the_baseline_breaks_does_not_bind(
    base: dict[str, Any], figures: dict[str, Any], words: str
) -> None:
    baseline = outcome("baseline-bf16", **base)
    verdict = decide(outcome("v", **figures), baseline, LOOSE)
    assert verdict.status == ("rejected" if words else "accepted")
    assert words in "; ".join(verdict.reasons)
    marks = marks_of(job("v"), outcome("v", **figures), {}, baseline)
    expected = "the baseline repeats one token" if "distinct" in base else "the baseline is worse than counting"
    assert expected in marks
    assert not any("baseline" in mark for mark in marks_of(job("v"), outcome("v", **figures), {}, BASE))


def in_arithmetic(name: str, compute_dtype: str, **figures: Any) -> Outcome:
    made = outcome(name, **figures)
    assert made.report
    quality = made.report.quality.model_copy(update={"compute_dtype": compute_dtype})
    return made.model_copy(update={"report": made.report.model_copy(update={"quality": quality})})


@pytest.mark.parametrize(
    ("own", "reference", "mean_kl", "marks"),
    [
        ("float32", "float32", 1e-3, ()),
        ("bfloat16", "float32", 1e-3, ("within noise", "scored in bfloat16")),
        ("bfloat16", "bfloat16", 0.05, ("scored in bfloat16", "reference in bfloat16")),
        ("llama.cpp", "bfloat16", 1e-3, ("within noise", "reference in bfloat16")),
        ("float16", "float32", 1e-3, ("scored in float16",)),
    ],
)
def test_figures_of_another_arithmetic_are_marked(
    own: str, reference: str, mean_kl: float, marks: tuple[str, ...]
) -> None:
    """What fp32 had no room for says so, and differences that the arithmetic alone makes are noise."""
    baseline = in_arithmetic("baseline-bf16", reference, mean_kl=3e-4 if reference == "bfloat16" else 2e-7)
    variant = in_arithmetic("v", own, mean_kl=mean_kl)
    plan = Plan(job("baseline-bf16"), {}, [job("v")], "", "")
    floor = noise_floor(plan, baseline, {"v": variant})
    assert floor == {"transformers": 2e-3 if reference == "bfloat16" else 2e-7}
    assert marks_of(job("v"), variant, floor, baseline) == marks


def test_all_reasons_are_given() -> None:
    verdict = decide(outcome("v", perplexity=40.0, mean_kl=3.0, top1=0.1), BASE, GatePolicy(min_top1_agreement=0.5))
    assert len(verdict.reasons) == 3


def test_what_failed_stays_failed_with_its_cause() -> None:
    failed = Outcome(name="v", error="OutOfMemory", message="held 30 GB")
    assert decide(failed, BASE, LOOSE).reasons == (f"OutOfMemory: held 30 GB; try this: {OutOfMemory.advice}",)
    assert decide(failed, BASE, LOOSE).status == "failed"
    verdict = decide(outcome("v"), Outcome(name="baseline-bf16", error="Killed", message="by SIGKILL"), LOOSE)
    assert (verdict.status, verdict.reasons) == ("failed", ("the baseline failed: Killed: by SIGKILL",))
