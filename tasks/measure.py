"""Measures one artifact folder, in a process that holds nothing else: speed as a consumer has it, then quality in fp32.

The baseline is measured the same way and leaves its trace, which the others are compared with.
"""

import importlib
import importlib.metadata
import statistics
import time
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from quantmill.errors import Gibberish
from quantmill.report import Generation, Quality, Speed
from tasks import metrics, trace
from tasks.deaths import peak_memory
from tasks.job_kinds import Progress
from tasks.metrics import Floats, Ints
from tasks.runtimes.protocol import LoadedModel, Machine

_PROMPT_TOKENS = 128
_GENERATED_TOKENS = 32
_REPEATS = 3
_PROMPTS = ("The capital of France is", "Water boils when", "def add(a, b):\n    return")
_CONTINUED_TOKENS = 16
_ENOUGH_S = 10.0  # a slow model is not read a third time


def measure(
    folder: Path, runtime: str, windows: Path, baseline: Path | None, out: Path, machine: Machine, progress: Progress
) -> dict[str, Any]:
    """Return quality, speed and a sample of the artifact in `folder`.

    Args:
        folder: the artifact, as a consumer gets it.
        runtime: a module of `tasks.runtimes`.
        windows: a token set.
        baseline: a folder with the baseline's trace; None: this is the baseline, and its trace is written to `out`.
        out: an empty folder.
        machine: where it runs.
        progress: told the step, how many are done, of how many.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give its logits.
    """
    module = importlib.import_module(f"tasks.runtimes.{runtime}")
    input_ids: Ints = load_file(windows)["input_ids"]
    context = max(input_ids.shape[1], _PROMPT_TOKENS + _GENERATED_TOKENS + 1)
    progress("measure speed", 0, 1)
    speed, sample, distinct, generations = _measure_speed(module, folder, input_ids, machine, context)
    progress("measure speed", 1, 1)
    model: LoadedModel = module.load(folder, machine, context=context, scoring=True)
    trace_kl = 0.0
    if baseline is None:
        scores, trace_kl = _score_baseline(model, input_ids, out, progress)
    else:
        scores = _score(model, input_ids, trace.load(baseline), progress)
    return {
        "quality": _summarize(metrics.join(scores), input_ids, model.compute_dtype).model_dump(),
        "speed": speed.model_dump(),
        "sample": sample,
        "sample_distinct_tokens": distinct,
        "generations": [generation.model_dump() for generation in generations],
        "runtime_version": importlib.metadata.version(module.PACKAGE),
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


def _measure_speed(
    module: Any, folder: Path, input_ids: Ints, machine: Machine, context: int
) -> tuple[Speed, str, int, list[Generation]]:
    """Return the speed, a sample with the number of its different tokens, and what follows the prompts.

    Speeds are medians of the repeats, after a warm-up.
    """
    started = time.perf_counter()
    model: LoadedModel = module.load(folder, machine, context=context, scoring=False)
    load_s = time.perf_counter() - started
    prompt = numpy.resize(input_ids[0], _PROMPT_TOKENS)
    model.step(model.start(prompt[:8]))
    prefill, decode, tokens = list[float](), list[float](), [0]
    begun = time.perf_counter()
    while len(decode) < _REPEATS and (not decode or time.perf_counter() - begun < _ENOUGH_S):
        started = time.perf_counter()
        tokens = [model.start(prompt)]
        read = time.perf_counter()
        while len(tokens) < _GENERATED_TOKENS:
            tokens.append(model.step(tokens[-1]))
        prefill.append(_PROMPT_TOKENS / (read - started))
        decode.append((_GENERATED_TOKENS - 1) / (time.perf_counter() - read))
    speed = Speed(
        load_s=load_s,
        prefill_tokens_per_s=statistics.median(prefill),
        decode_tokens_per_s=statistics.median(decode),
        peak_memory_bytes=peak_memory(),
        prompt_tokens=_PROMPT_TOKENS,
        generated_tokens=_GENERATED_TOKENS,
        repeats=len(decode),
        threads=machine.threads,
        compute_dtype=model.compute_dtype,
        kernel=model.kernel,
        hardware=machine.hardware,
    )
    sample, generations = model.text(tokens), _continue_prompts(model, folder)
    model.close()
    return speed, sample, len(set(tokens)), generations


def _continue_prompts(model: LoadedModel, folder: Path) -> list[Generation]:
    """Return what the model writes after each prompt, as the folder's own tokenizer.json reads it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = []
    for prompt in _PROMPTS:
        tokens = [model.start(numpy.array(tokenizer.encode(prompt).ids, dtype=numpy.int32))]
        while len(tokens) < _CONTINUED_TOKENS:
            tokens.append(model.step(tokens[-1]))
        made.append(Generation(prompt=prompt, text=str(tokenizer.decode(tokens))))
    return made


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
