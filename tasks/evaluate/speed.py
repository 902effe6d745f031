"""Measures the speed of one artifact folder and generates texts, within a time budget.

The folder is loaded as a consumer loads it.
"""

import statistics
from pathlib import Path
from typing import Any

import numpy
from tokenizers import Tokenizer

from quantmill.records.report import Generation, Speed, Timing
from tasks.evaluate.busy import Readings, Stretch
from tasks.metrics import Ints
from tasks.runtimes import LoadedModel, Machine
from tasks.sandbox import Progress
from tasks.sandbox.here import peak_memory

PROMPT_TOKENS = 128
GENERATED_TOKENS = 32
_REPEATS = 3
_LEAST_S = 0.5
_PROMPTS = ("The capital of France is", "Water boils when", "def add(a, b):\n    return")
_CONTINUED_TOKENS = 16
_WARM_TOKENS = 8
_READING, _FIRST = 0.3, 0.6
"""Largest shares of the budget: for reading the prompt once, and from the start to the end of the first repeat."""


class Budget:
    """A time budget for generating tokens; a token that is being generated at its end is still finished."""

    def __init__(self, readings: Readings, seconds: float) -> None:
        """Begin the budget now."""
        self._readings, self.seconds = readings, seconds
        self._began = readings.clock()

    def spent(self) -> float:
        """Return the seconds since the budget began."""
        return self._readings.clock() - self._began

    def has(self, share: float = 1.0, need_s: float = 0.0) -> bool:
        """Return whether `need_s` more seconds fit into a share of the budget."""
        return self.spent() + need_s < share * self.seconds


def measure_speed(
    module: Any,
    folder: Path,
    input_ids: Ints,
    machine: Machine,
    context: int,
    progress: Progress,
    readings: Readings,
    budget_s: float = 20.0,
    busy_limit: float = 0.05,
) -> dict[str, Any]:
    """Return fields of a report: speed, timing, sample with its number of distinct tokens, generations.

    Speeds are medians of the repeats, after a warm-up. A model that is too slow for the budget reads a shorter prompt and
    writes fewer tokens.

    Args:
        module: the module of `tasks.runtimes` that loads the folder.
        folder: the artifact's folder, as a consumer gets it.
        input_ids: the evaluation windows, (windows, length); the first window gives the prompt.
        machine: the machine that the model runs on.
        context: the number of tokens that the runtime must take at once.
        progress: gets the start and the end of the step.
        readings: the clock and the readings of other work on the machine.
        budget_s: seconds for speed and generations together, without loading.
        busy_limit: the share of the machine above which other work makes the machine busy.
    """
    progress("measure speed", 0, 1)
    started = readings.clock()
    model: LoadedModel = module.load(folder, machine, context=context, scoring=False)
    load_s = readings.clock() - started
    budget, stretch = Budget(readings, budget_s), Stretch(readings)
    prompt = _prompt(model, input_ids[0], budget)
    runs = [_read_and_write(model, prompt, readings, budget, _FIRST)]
    tokens, first_s = runs[0][0], budget.spent()
    generations = _continue_prompts(model, folder, budget)
    while len(tokens) == GENERATED_TOKENS and budget.has(need_s=first_s) and _wants_more(len(runs), budget):
        runs.append(_read_and_write(model, prompt, readings, budget, 1.0))
    shares = stretch.shares()
    whole = [run for run in runs if len(run[0]) == len(tokens)]
    prefill = [len(prompt) / run[1] for run in whole]
    decode = [(len(tokens) - 1) / run[2] for run in whole]
    speed = Speed(
        load_s=load_s,
        prefill_tokens_per_s=statistics.median(prefill),
        decode_tokens_per_s=statistics.median(decode),
        peak_memory_bytes=_peak_memory(machine.device),
        prompt_tokens=len(prompt),
        generated_tokens=len(tokens),
        repeats=len(whole),
        threads=machine.threads,
        compute_dtype=model.compute_dtype,
        kernel=model.kernel,
        hardware=machine.hardware,
    )
    timing = Timing(
        others=shares.others,
        throttled=shares.throttled,
        shares_gpu=shares.shares_gpu,
        busy_limit=busy_limit,
        budget_s=budget_s,
        took_s=budget.spent(),
        prefill_range=(min(prefill), max(prefill)),
        decode_range=(min(decode), max(decode)),
    )
    sample = model.text(tokens)
    model.close()
    progress("measure speed", 1, 1)
    return {
        "speed": speed.model_dump(),
        "timing": timing.model_dump(),
        "sample": sample,
        "sample_distinct_tokens": len(set(tokens)),
        "generations": [generation.model_dump() for generation in generations],
    }


def _wants_more(runs: int, budget: Budget) -> bool:
    """Return whether to repeat the measurement.

    A very short stretch would not show other work on the machine, so fast models run more repeats.
    """
    return runs < _REPEATS or budget.spent() < _LEAST_S


def _prompt(model: LoadedModel, window: Ints, budget: Budget) -> Ints:
    """Return the prompt; its length depends on the warm-up's speed and the budget.

    A prompt is read in one piece, so its reading cannot stop when the budget ends.
    """
    prompt: Ints = numpy.resize(window, PROMPT_TOKENS)
    first = model.start(prompt[:_WARM_TOKENS])
    token_s = budget.spent() / _WARM_TOKENS
    model.step(first)
    if token_s * PROMPT_TOKENS <= _READING * budget.seconds:
        return prompt
    return prompt[: max(1, min(PROMPT_TOKENS, int(_READING * budget.seconds / token_s)))]


def _read_and_write(
    model: LoadedModel, prompt: Ints, readings: Readings, budget: Budget, share: float
) -> tuple[list[int], float, float]:
    """Return the tokens that follow a prompt (at least two), and the seconds for reading and writing."""
    started = readings.clock()
    tokens = [model.start(prompt)]
    read = readings.clock()
    while len(tokens) < 2 or (len(tokens) < GENERATED_TOKENS and budget.has(share)):
        tokens.append(model.step(tokens[-1]))
    return tokens, read - started, readings.clock() - read


def _continue_prompts(model: LoadedModel, folder: Path, budget: Budget) -> list[Generation]:
    """Return the model's continuation of each fixed prompt; empty texts when the budget is spent.

    The folder's tokenizer.json encodes and decodes the texts.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = []
    for prompt in _PROMPTS:
        tokens = []
        if budget.has():
            tokens = [model.start(numpy.array(tokenizer.encode(prompt).ids, dtype=numpy.int32))]
            while len(tokens) < _CONTINUED_TOKENS and budget.has():
                tokens.append(model.step(tokens[-1]))
        made.append(Generation(prompt=prompt, text=str(tokenizer.decode(tokens))))
    return made


def _peak_memory(device: str) -> int:
    """Return the peak memory in bytes: of the GPUs if the model computes there, else of this process."""
    if device == "cpu":
        return peak_memory()
    import torch

    held = sum(torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count()))
    return held or peak_memory()  # torch does not see the memory that other libraries allocate
