"""Scores one artifact folder: compares its logits with the baseline's, in fp32.

The comparison covers every position of the evaluation windows. The baseline is scored the same way and leaves its trace,
with which the variants are compared.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy

from quantmill.errors import Gibberish
from quantmill.records.report import Quality
from tasks import metrics
from tasks.evaluate import trace
from tasks.metrics import Floats, Ints
from tasks.runtimes import LoadedModel, Machine, TracedModel
from tasks.sandbox import Progress


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
    """Return fields of the report: quality, digest of the baseline's head, KL of the trace.

    The KL of the trace is the error of logits that are recomputed from the baseline's trace; 0 for variants.

    Args:
        module: the module of `tasks.runtimes` that loads the folder.
        folder: the artifact's folder, as a consumer gets it.
        input_ids: the evaluation windows, (windows, length).
        baseline: a folder with the baseline's trace; None: the artifact is the baseline, and its trace goes to `out`.
        out: an empty folder.
        machine: the machine that the model runs on.
        context: the number of tokens that the runtime must take at once.
        progress: gets the number of scored windows.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give the baseline's logits.
    """
    model: LoadedModel = module.load(folder, machine, context=context, scoring=True)
    trace_kl = 0.0
    if baseline is None:
        scores, trace_kl = _score_baseline(cast("TracedModel", model), input_ids, out, progress)
    else:
        scores = _score(model, input_ids, trace.load(baseline), progress)
    return {
        "quality": _summarize(metrics.join(scores), input_ids, model.compute_dtype).model_dump(),
        "head_digest": trace.head_digest(baseline or out),
        "trace_kl": trace_kl,
    }


def _score(model: LoadedModel, input_ids: Ints, reference: trace.Trace, progress: Progress) -> list[metrics.Scores]:
    """Return the scores against the baseline's trace, for each piece of each window."""
    if not numpy.array_equal(reference.input_ids, input_ids):
        raise ValueError("the baseline's trace was made on other token windows")
    read, scores = model.reader(reference.head), list[metrics.Scores]()
    for window, ids in enumerate(input_ids):
        for positions, logits in _before_last(((piece,) for piece in model.pieces(ids)), len(ids)):
            expected = read(reference.inputs(window, positions))
            scores.append(_sound(metrics.score(expected, logits, ids[1:][positions]), window, positions.start))
        progress("score window", window + 1, len(input_ids))
    return scores


def _score_baseline(
    model: TracedModel, input_ids: Ints, out: Path, progress: Progress
) -> tuple[list[metrics.Scores], float]:
    """Write the trace to `out`; return the model's scores against it and the first window's divergence.

    The trace is stored in fp16 if the divergence stays within the tolerance, else in fp32.
    """
    head = model.head()
    read, scores, divergence, window = model.reader(head), list[metrics.Scores](), float("nan"), 0
    hidden: Any = numpy.empty((len(input_ids), input_ids.shape[1] - 1, head.weight.shape[1]), numpy.float16)
    while window < len(input_ids):
        made, apart = _read_window(model, read, input_ids[window], window, hidden[window])
        divergence = divergence if window else apart
        fits = numpy.isfinite(hidden[window]).all() and trace.is_same(divergence, model.compute_dtype)
        if hidden.dtype == numpy.float16 and not fits:
            hidden = hidden.astype(numpy.float32)  # then read this window again
            continue
        trace.require_same(divergence, model.compute_dtype)
        scores += made
        window += 1
        progress("score window", window, len(input_ids))
    trace.save(trace.Trace(input_ids=input_ids, hidden=hidden, head=head), out)
    return scores, divergence


def _read_window(
    model: TracedModel, read: Callable[[Floats], Any], ids: Ints, window: int, kept: Floats
) -> tuple[list[metrics.Scores], float]:
    """Fill `kept` (length - 1, hidden) with the head's inputs; return the window's scores and divergence.

    The divergence is the mean KL between the model's logits and the logits that `read` computes from `kept`. It is measured
    on the first window only, and is 0 for others.
    """
    scores, apart = list[metrics.Scores](), [0.0]
    for positions, inputs, logits in _before_last(model.traced_pieces(ids), len(ids)):
        with numpy.errstate(over="ignore"):
            kept[positions] = inputs
        expected, targets = read(kept[positions]), ids[1:][positions]
        scores.append(_sound(metrics.score(expected, logits, targets), window, positions.start))
        if window == 0:
            apart.append(float(metrics.score(logits, expected, targets).kl.sum()))
    return scores, sum(apart) / len(kept)


def _before_last(pieces: Iterable[tuple[Any, ...]], length: int) -> Iterator[tuple[Any, ...]]:
    """Yield each piece's positions and arrays, without the window's last position.

    The last position is not scored, because its next token is unknown.
    """
    start = 0
    for arrays in pieces:
        end = min(start + len(arrays[-1]), length - 1)
        if end > start:
            yield slice(start, end), *(array[: end - start] for array in arrays)
        start = end


def _sound(scores: metrics.Scores, window: int, start: int) -> metrics.Scores:
    """Return `scores`; raise Gibberish if a logit was NaN or plus infinity.

    Minus infinity is allowed: it forbids a token.
    """
    if numpy.isnan(scores.nll).any():
        position = start + int(numpy.isnan(scores.nll).argmax())
        raise Gibberish(f"a logit of window {window} is NaN or infinite at position {position}")
    return scores


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
