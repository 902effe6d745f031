"""Measures how fast one artifact folder is, loaded as a consumer loads it, and what it writes."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy
from tokenizers import Tokenizer

from quantmill.report import Generation, Speed
from tasks.deaths import peak_memory
from tasks.job_kinds import Progress
from tasks.metrics import Ints
from tasks.runtimes.protocol import LoadedModel, Machine

PROMPT_TOKENS = 128
GENERATED_TOKENS = 32
_REPEATS = 3
_PROMPTS = ("The capital of France is", "Water boils when", "def add(a, b):\n    return")
_CONTINUED_TOKENS = 16
_ENOUGH_S = 10.0  # a slow model is not read a third time


def measure_speed(
    module: Any, folder: Path, input_ids: Ints, machine: Machine, context: int, progress: Progress
) -> dict[str, Any]:
    """Return the speed, a sample with the number of its different tokens, and what follows the prompts.

    Speeds are medians of the repeats, after a warm-up.

    Args:
        module: of `tasks.runtimes`.
        folder: the artifact, as a consumer gets it.
        input_ids: the evaluation windows, (windows, length); the prompt is made of the first.
        machine: where it runs.
        context: tokens that the runtime must take at once.
        progress: told the step, how many are done, of how many.
    """
    progress("measure speed", 0, 1)
    started = time.perf_counter()
    model: LoadedModel = module.load(folder, machine, context=context, scoring=False)
    load_s = time.perf_counter() - started
    prompt = numpy.resize(input_ids[0], PROMPT_TOKENS)
    model.step(model.start(prompt[:8]))
    prefill, decode, tokens = list[float](), list[float](), [0]
    begun = time.perf_counter()
    while len(decode) < _REPEATS and (not decode or time.perf_counter() - begun < _ENOUGH_S):
        started = time.perf_counter()
        tokens = [model.start(prompt)]
        read = time.perf_counter()
        while len(tokens) < GENERATED_TOKENS:
            tokens.append(model.step(tokens[-1]))
        prefill.append(PROMPT_TOKENS / (read - started))
        decode.append((GENERATED_TOKENS - 1) / (time.perf_counter() - read))
    speed = Speed(
        load_s=load_s,
        prefill_tokens_per_s=statistics.median(prefill),
        decode_tokens_per_s=statistics.median(decode),
        peak_memory_bytes=peak_memory(),
        prompt_tokens=PROMPT_TOKENS,
        generated_tokens=GENERATED_TOKENS,
        repeats=len(decode),
        threads=machine.threads,
        compute_dtype=model.compute_dtype,
        kernel=model.kernel,
        hardware=machine.hardware,
    )
    sample, generations = model.text(tokens), _continue_prompts(model, folder)
    model.close()
    progress("measure speed", 1, 1)
    return {
        "speed": speed.model_dump(),
        "sample": sample,
        "sample_distinct_tokens": len(set(tokens)),
        "generations": [generation.model_dump() for generation in generations],
    }


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
