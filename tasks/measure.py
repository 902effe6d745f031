"""Measures one artifact folder, in a process that holds nothing else: speed as a consumer has it, then quality in fp32."""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tasks import score, speed
from tasks.job_kinds import Progress
from tasks.metrics import Ints
from tasks.runtimes.protocol import Machine


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
    context = max(input_ids.shape[1], speed.PROMPT_TOKENS + speed.GENERATED_TOKENS + 1)
    measured = speed.measure_speed(module, folder, input_ids, machine, context, progress)
    scored = score.score_folder(module, folder, input_ids, baseline, out, machine, context, progress)
    return measured | scored | {"runtime_version": importlib.metadata.version(module.PACKAGE)}
