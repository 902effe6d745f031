"""What gibberish is: a text predicted worse than by counting its tokens, or a sample that repeats one token."""

from quantmill.records.report import EvaluationReport

ENOUGH_TOKENS = 16
"""A sample that is shorter may repeat one token by chance: the rule on repeats does not apply."""
COUNTING = "the baseline is worse than counting"
REPEATING = "the baseline repeats one token"


def unbound_rules(baseline: EvaluationReport) -> tuple[str, ...]:
    """Return the rules on gibberish that the baseline itself breaks, as marks: they say nothing about its variants."""
    quality, broken = baseline.quality, []
    if not quality.perplexity <= quality.unigram_perplexity:
        broken.append(COUNTING)
    if repeats(baseline):
        broken.append(REPEATING)
    return tuple(broken)


def too_short(report: EvaluationReport) -> bool:
    """Return whether too few tokens were generated for the rule on repeats."""
    return report.speed.generated_tokens < ENOUGH_TOKENS


def repeats(report: EvaluationReport) -> bool:
    """Return whether the sample repeats one token."""
    return report.sample_distinct_tokens == 1 and not too_short(report)
