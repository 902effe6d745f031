"""Stage 6: the gate. Only this pure function decides whether a variant is accepted."""

from quantmill.errors import with_advice
from quantmill.recipe.recipe import GatePolicy
from quantmill.records.artifact import Artifact
from quantmill.records.report import EvaluationReport, Outcome, Verdict
from quantmill.records.selection import perplexity_ratio
from tasks.gibberish import COUNTING, REPEATING, repeats, unbound_rules


def decide(outcome: Outcome, baseline: Outcome, policy: GatePolicy) -> Verdict:
    """Return the verdict on a variant: `failed` without an artifact or a report, else by the limits.

    A value equal to its limit passes. Gibberish is rejected under any policy: a model that predicts the text worse than the
    text's token frequencies do, or a sample that repeats one token. A rule that the baseline breaks does not bind its
    variants: see `tasks/gibberish.py`.
    """
    if outcome.artifact is None or outcome.report is None:
        name = outcome.error or "EngineError"
        return Verdict(status="failed", reasons=(with_advice(name, f"{name}: {outcome.message}"),))
    if baseline.artifact is None or baseline.report is None:
        return Verdict(status="failed", reasons=(f"the baseline failed: {baseline.error}: {baseline.message}",))
    reasons = [
        *_gibberish(outcome.report, unbound_rules(baseline.report)),
        *_limits(outcome.artifact, outcome.report, baseline.artifact, baseline.report, policy),
    ]
    return Verdict(status="rejected" if reasons else "accepted", reasons=tuple(reasons))


def _gibberish(report: EvaluationReport, unbound: tuple[str, ...]) -> list[str]:
    quality, reasons = report.quality, []
    if not quality.perplexity <= quality.unigram_perplexity and COUNTING not in unbound:
        reasons.append(
            f"gibberish: perplexity {quality.perplexity:.1f} is worse than {quality.unigram_perplexity:.1f},"
            " which counting the text's tokens gives"
        )
    if repeats(report) and REPEATING not in unbound:
        reasons.append("gibberish: the generated sample repeats one token")
    return reasons


def _limits(
    artifact: Artifact, report: EvaluationReport, base_artifact: Artifact, base: EvaluationReport, policy: GatePolicy
) -> list[str]:
    quality, reasons = report.quality, []
    for words, value, limit in (
        (
            "perplexity ratio",
            perplexity_ratio(quality.perplexity, base.quality.perplexity),
            policy.max_perplexity_ratio,
        ),
        ("mean KL", quality.mean_kl, policy.max_mean_kl),
        ("99th percentile of KL", quality.p99_kl, policy.max_p99_kl),
        ("size ratio", artifact.size_bytes / base_artifact.size_bytes, policy.max_size_ratio),
    ):
        if not value <= limit:  # so NaN does not pass
            reasons.append(f"{words} {_unlike(value, limit)} exceeds {limit:g}")
    if not (share := quality.top1_agreement) >= (least := policy.min_top1_agreement):
        reasons.append(f"top-1 agreement {_unlike(share, least)} is below {least:g}")
    return reasons


def _unlike(value: float, limit: float) -> str:
    """Return a figure with four digits, or with as many as it takes to differ from the limit."""
    texts = (format(value, f".{digits}g") for digits in range(4, 18))
    return next((text for text in texts if float(text) != limit), repr(value))
