"""Measures one artifact folder, in a process that holds nothing else: speed as a consumer has it, then quality in fp32."""

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from quantmill.variants import VariantSpec
from tasks import placement, score, speed
from tasks.busy import System
from tasks.job_kinds import Progress
from tasks.runtimes.protocol import Machine
from tasks.sandbox import JobFile


def measure(
    job: JobFile, hardware: str, out: Path, progress: Progress, share: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return quality, speed and a sample of an artifact.

    Args:
        job: names the artifact's folder, as a consumer gets it, a module of `tasks.runtimes`, a token set, and a folder with
            the baseline's trace; without one this is the baseline, and its trace is written to `out`.
        hardware: the device's name.
        out: an empty folder.
        progress: told the step, how many are done, of how many.
        share: called when speed is known: from then on other jobs may run beside this one.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give its logits.
    """
    told = job.arguments
    module, machine = importlib.import_module(f"tasks.runtimes.{told['runtime']}"), _machine(job, hardware)
    input_ids = load_file(told["windows"])["input_ids"]
    context = max(input_ids.shape[1], speed.PROMPT_TOKENS + speed.GENERATED_TOKENS + 1)
    measured = _speed(job, module, input_ids, machine, context, progress)
    share()
    baseline = Path(told["trace"]) if told["trace"] else None
    scored = score.score_folder(module, Path(told["artifact"]), input_ids, baseline, out, machine, context, progress)
    return measured | scored | {"runtime_version": importlib.metadata.version(module.PACKAGE)}


def measure_speed(job: JobFile, hardware: str, progress: Progress) -> dict[str, Any]:
    """Return speed and sample alone, of an artifact that was scored before; see `measure`."""
    module = importlib.import_module(f"tasks.runtimes.{job.arguments['runtime']}")
    input_ids = load_file(job.arguments["windows"])["input_ids"]
    context = max(input_ids.shape[1], speed.PROMPT_TOKENS + speed.GENERATED_TOKENS + 1)  # as beside the scores
    return _speed(job, module, input_ids, _machine(job, hardware), context, progress)


def _speed(
    job: JobFile, module: Any, input_ids: Any, machine: Machine, context: int, progress: Progress
) -> dict[str, Any]:
    return speed.measure_speed(
        module,
        Path(job.arguments["artifact"]),
        input_ids,
        machine,
        context,
        progress,
        System(machine.device),
        job.arguments["budget_s"],
        job.arguments["busy_limit"],
    )


def _machine(job: JobFile, hardware: str) -> Machine:
    device = job.arguments["device"]
    spread = placement.of(VariantSpec.model_validate(job.arguments["spec"]), device)
    return Machine(device=device, threads=job.threads, hardware=hardware, placement=spread)
