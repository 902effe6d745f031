"""The two rules on gibberish.

A model produces gibberish if it predicts a text worse than token frequencies do, or if its sample repeats one token.
"""

from quantmill.records.report import EvaluationReport

ENOUGH_TOKENS = 16
"""A shorter sample may repeat one token by chance, so the rule on repeats does not apply to it."""
COUNTING = "the baseline is worse than counting"
REPEATING = "the baseline repeats one token"


def unbound_rules(baseline: EvaluationReport) -> tuple[str, ...]:
    """Return the marks of the gibberish rules that the baseline breaks.

    Such a rule says nothing about the baseline's variants and does not bind them.
    """
    quality, broken = baseline.quality, []
    if not quality.perplexity <= quality.unigram_perplexity:
        broken.append(COUNTING)
    if repeats(baseline):
        broken.append(REPEATING)
    return tuple(broken)


def too_short(report: EvaluationReport) -> bool:
    """Return whether the sample has too few tokens for the rule on repeats."""
    return report.speed.generated_tokens < ENOUGH_TOKENS


def repeats(report: EvaluationReport) -> bool:
    """Return whether the sample is long enough and repeats one token."""
    return report.sample_distinct_tokens == 1 and not too_short(report)
