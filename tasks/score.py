"""Scores one artifact folder: its logits at every position of the evaluation windows beside the baseline's, in fp32.

The baseline is scored the same way and leaves its trace, which the others are compared with.
"""

from pathlib import Path
from typing import Any

import numpy

from quantmill.errors import Gibberish
from quantmill.report import Quality
from tasks import metrics, trace
from tasks.job_kinds import Progress
from tasks.metrics import Floats, Ints
from tasks.runtimes.protocol import LoadedModel, Machine


def score_folder(
    module: Any,
    folder: Path,
    input_ids: Ints,
    baseline: Path | None,
    out: Path,
    machine: Machine,
    context: int,
    progress: Progress,
) -> dict[str, Any]:
    """Return the quality of the artifact in `folder`, the digest of the baseline's head and what the trace costs.

    Args:
        module: of `tasks.runtimes`.
        folder: the artifact, as a consumer gets it.
        input_ids: the evaluation windows, (windows, length).
        baseline: a folder with the baseline's trace; None: this is the baseline, and its trace is written to `out`.
        out: an empty folder.
        machine: where it runs.
        context: tokens that the runtime must take at once.
        progress: told the step, how many are done, of how many.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give its logits.
    """
    model: LoadedModel = module.load(folder, machine, context=context, scoring=True)
    trace_kl = 0.0
    if baseline is None:
        scores, trace_kl = _score_baseline(model, input_ids, out, progress)
    else:
        scores = _score(model, input_ids, trace.load(baseline), progress)
    return {
        "quality": _summarize(metrics.join(scores), input_ids, model.compute_dtype).model_dump(),
        "head_digest": trace.head_digest(baseline or out),
        "trace_kl": trace_kl,
    }


def _score(model: LoadedModel, input_ids: Ints, reference: trace.Trace, progress: Progress) -> list[metrics.Scores]:
    """Return the scores of each window against the baseline's trace."""
    if not numpy.array_equal(reference.input_ids, input_ids):
        raise ValueError("the baseline's trace is of other token windows")
    scores = []
    for index, ids in enumerate(input_ids):
        logits = _sound(model.logits(ids)[:-1], index)
        scores.append(metrics.score(reference.logits(index), logits, ids[1:]))
        progress("score window", index + 1, len(input_ids))
    return scores


def _score_baseline(model: Any, input_ids: Ints, out: Path, progress: Progress) -> tuple[list[metrics.Scores], float]:
    """Write the trace to `out`; return the scores of the model against it, and the first window's divergence."""
    head, scores, hidden = model.head(), [], []
    divergence, dtype = 0.0, None
    for index, ids in enumerate(input_ids):
        inputs, logits = model.trace(ids)
        logits = _sound(logits[:-1], index)
        if dtype is None:
            dtype, divergence = trace.narrowest(head, inputs[:-1], logits)
        with numpy.errstate(over="ignore"):
            if not numpy.isfinite(inputs.astype(dtype)).all():
                dtype = numpy.float32  # this window holds what the first did not
        hidden.append(inputs[:-1])
        scores.append(metrics.score(head.logits(inputs[:-1].astype(dtype)), logits, ids[1:]))
        progress("score window", index + 1, len(input_ids))
    trace.save(trace.Trace(input_ids=input_ids, hidden=numpy.stack(hidden).astype(dtype), head=head), out)
    return scores, divergence


def _sound(logits: Floats, window: int) -> Floats:
    """Return `logits` if no value is NaN or plus infinity (minus infinity forbids a token, which is sound)."""
    if numpy.isnan(logits).any() or numpy.isposinf(logits).any():
        position = int(numpy.argwhere(~(logits < numpy.inf)).min(axis=0)[0])
        raise Gibberish(f"a logit of window {window} is NaN or infinite at position {position}")
    return logits


def _summarize(scores: metrics.Scores, input_ids: Ints, compute_dtype: str) -> Quality:
    return Quality(
        scored_tokens=len(scores.nll),
        perplexity=float(numpy.exp(scores.nll.mean())),
        mean_kl=float(scores.kl.mean()),
        p99_kl=float(numpy.quantile(scores.kl, 0.99)),
        top1_agreement=float(scores.agrees.mean()),
        unigram_perplexity=metrics.unigram_perplexity(input_ids[:, 1:]),
        compute_dtype=compute_dtype,
    )
