"""Measures an artifact inside a job: first its speed, as consumers get it, then its quality in fp32."""

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
    """The artifact's folder, as a consumer gets it."""
    runtime: str
    """The module of `tasks.runtimes` that loads the folder."""
    windows: Path
    """The evaluation windows, `input_ids` of shape (windows, length)."""
    device: str
    spec: VariantSpec
    budget_s: float
    """Seconds for speed and generations together, without loading."""
    busy_limit: float
    """If other work takes more than this share of the machine, the machine counts as busy."""


class Report(_Measured):
    """The arguments of a job that measures an artifact's speed and quality."""

    kind: Literal["report"] = "report"
    trace: Path | None
    """A folder with the baseline's trace; None: the artifact is the baseline, and the job writes its trace to `out`."""


class Speed(_Measured):
    """The arguments of a job that measures only the speed of an artifact with stored scores."""

    kind: Literal["speed"] = "speed"


Arguments = Annotated[Report | Speed, Field(discriminator="kind")]


def run(arguments: Report | Speed, out: Path, progress: Progress) -> dict[str, Any]:
    """Return fields of an artifact's report: speed and sample, for a `Report` job also the quality.

    Raises:
        Gibberish: a logit is NaN or infinite.
        TraceMismatch: the baseline's trace does not give the baseline's logits.
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
