"""Inside a job that holds nothing else: an artifact's speed as a consumer has it, then its quality in fp32."""

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from quantmill.recipe.recipe import VariantSpec
from tasks.sandbox import JobArguments, Progress, here

if TYPE_CHECKING:
    from tasks.metrics import Ints
    from tasks.runtimes import Machine


class _Measured(JobArguments):
    alone: ClassVar[bool] = True
    artifact: Path
    """The folder, as a consumer gets it."""
    runtime: str
    """The module of `tasks.runtimes` that opens it."""
    windows: Path
    """The evaluation windows, `input_ids` of shape (windows, length)."""
    device: str
    spec: VariantSpec
    budget_s: float
    """Seconds for speed and generations together, loading not counted."""
    busy_limit: float
    """The share of the machine that others may take before its speed counts as a busy machine's."""


class Report(_Measured):
    """An artifact whose speed and quality are to be measured."""

    kind: Literal["report"] = "report"
    trace: Path | None
    """A folder with the baseline's trace; None: this is the baseline, and its trace is written to `out`."""


class Speed(_Measured):
    """An artifact that was scored before, whose speed is to be measured."""

    kind: Literal["speed"] = "speed"


Arguments = Annotated[Report | Speed, Field(discriminator="kind")]


def run(arguments: Report | Speed, out: Path, progress: Progress) -> dict[str, Any]:
    """Return quality, speed and a sample of an artifact, or speed and sample alone.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give its logits.
    """
    here.compile_nothing(arguments.device)
    from safetensors.numpy import load_file

    from tasks.evaluate import score, speed
    from tasks.evaluate.busy import System
    from tasks.runtimes import runtime

    module, machine = runtime(arguments.runtime), _machine(arguments)
    input_ids: Ints = load_file(arguments.windows)["input_ids"]
    context = max(input_ids.shape[1], speed.PROMPT_TOKENS + speed.GENERATED_TOKENS + 1)
    busy, limits = System(machine.device), (arguments.budget_s, arguments.busy_limit)
    measured = speed.measure_speed(module, arguments.artifact, input_ids, machine, context, progress, busy, *limits)
    if isinstance(arguments, Speed):
        return measured
    here.share_machine()
    scored = score.score_folder(module, arguments.artifact, input_ids, arguments.trace, out, machine, context, progress)
    return measured | scored | {"runtime_version": importlib.metadata.version(module.PACKAGE)}


def _machine(arguments: Report | Speed) -> "Machine":
    from tasks.engines import placement
    from tasks.runtimes import Machine

    chosen = arguments.spec.model_dump(include={"device_map", "max_memory"})
    spread = placement.of(chosen.get("device_map"), chosen.get("max_memory"), arguments.device)
    return Machine(arguments.device, here.threads(), here.hardware(arguments.device), placement=spread)
