"""Makes the jobs of a run, with the keys of their results, from recipe, snapshot and token sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flows.job_keys import EngineWork, artifact_key, measured_by
from flows.needs import NEEDS
from flows.pools import Pool, candidates
from quantmill.errors import RecipeError
from quantmill.files import keys
from quantmill.machine import class_of
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import Recipe, VariantSpec, default_model_name
from quantmill.records import planning
from quantmill.records.artifact import Origin, Snapshot, TokenSet
from quantmill.records.job import StageRef, VariantJob
from quantmill.records.report import Outcome
from tasks import arithmetic, evaluate, processor
from tasks.model import config_forms

BASELINE = VariantSpec(method="baseline", bits=16, type="bf16")
LOSSLESS = {"llama_cpp": VariantSpec(method="gguf", bits=32, type="F32")}
"""Runtime -> the variant that changes no weight; its KL is the runtime's noise floor. transformers uses the baseline."""


class Place(NamedTuple):
    """The facts about a variant's machine that its keys depend on."""

    device: str
    threads: int
    processor: str


class Plan(NamedTuple):
    """The jobs of a run: the baseline, the noise floors of runtimes, and the variants."""

    baseline: VariantJob
    floors: dict[str, VariantJob]
    variants: list[VariantJob]
    needs: tuple[StageRef, ...]
    """The stages that must run before some of the variants."""
    model_name: str
    """The model's name in the metadata of GGUF files; it does not depend on the published name."""

    def needed(self, stage: str) -> str:
        """Return the key of a stage that some variant needs, or an empty string if no variant needs it."""
        return next((ref.key for ref in self.needs if ref.stage == stage), "")

    @property
    def others(self) -> list[VariantJob]:
        """All jobs but the baseline's: the floors, then the variants."""
        return [*self.floors.values(), *self.variants]


def make_plan(
    recipe: Recipe,
    snapshot: Snapshot,
    calibration: TokenSet | None,
    evaluation: TokenSet,
    threads: int,
    checkpoints: Mapping[str, Origin],
    pools: tuple[Pool, ...] = (),
) -> Plan:
    """Return the jobs in the recipe's order; without pools they run on this machine.

    `checkpoints`: source -> the origin of the checkpoint that an `imported` variant takes.

    Raises:
        RequestError: no pool can take a variant.
    """
    asked = recipe.expand(snapshot.origin.architecture.linear_inputs)
    specs = [_as_found(spec, checkpoints) for spec in asked]
    taken = {
        spec.name: checkpoints[before.source_asked or ""]
        for spec, before in zip(specs, asked, strict=True)
        if spec.packing
    }
    name, here = model_name(recipe), processor.of_this_machine()
    needed = {spec.runtime(snapshot.origin.architecture.experts) for spec in specs}
    floors = {runtime: spec for runtime, spec in LOSSLESS.items() if runtime in needed}

    def place(spec: VariantSpec) -> Place:
        if not pools:
            return Place(choose_device(recipe.device), threads, here)
        first = places(spec, snapshot, recipe.device, pools, evaluation.request.sequence_length)[0]
        return Place(first.device, first.threads or threads, first.processor or here)

    def job(spec: VariantSpec) -> VariantJob:
        made = _job(spec, snapshot, calibration, evaluation, name, place(spec), place(BASELINE))
        return made.model_copy(update={"checkpoint": taken.get(spec.name)})

    measured, variants = {runtime: job(spec) for runtime, spec in floors.items()}, [job(spec) for spec in specs]
    needs = dict.fromkeys(ref for made in (*measured.values(), *variants) for ref in made.needs)
    return Plan(baseline=job(BASELINE), floors=measured, variants=variants, needs=tuple(needs), model_name=name)


def _as_found(spec: VariantSpec, checkpoints: Mapping[str, Origin]) -> VariantSpec:
    """Fill in an `imported` variant from its checkpoint; return any other unchanged."""
    origin = checkpoints.get(spec.source_asked) if spec.source_asked is not None else None
    packing = origin.architecture.packing if origin else None
    return spec.found(packing, origin.digest) if origin and packing else spec


def places(spec: VariantSpec, snapshot: Snapshot, device: str, pools: tuple[Pool, ...], length: int) -> list[Pool]:
    """Return the pools that can run a variant, best first; all of them give the same keys.

    `length`: tokens of an evaluation window.

    Raises:
        RequestError: no pool can take the variant.
    """
    needed = planning.memory_bytes(spec, snapshot.parameters, snapshot.origin.architecture, length)
    fitting = candidates(spec, needed, device, pools, spec.row.environment)
    same = (fitting[0].device, fitting[0].threads, fitting[0].processor)
    return [pool for pool in fitting if (pool.device, pool.threads, pool.processor) == same]


def noise_floor(plan: Plan, baseline: Outcome, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Return the noise floor of each runtime: the mean KL of the unquantized weights.

    A floor is at least the error of the baseline's own arithmetic.
    """
    reports = {runtime: outcomes[job.name].report for runtime, job in plan.floors.items() if job.name in outcomes}
    for runtime in {"transformers", *(job.runtime for job in plan.variants)} - plan.floors.keys():
        reports[runtime] = baseline.report  # their layers run inside a transformers model
    least = arithmetic.floor(baseline.report.quality.compute_dtype) if baseline.report else 0.0
    return {runtime: max(abs(found.quality.mean_kl), least) for runtime, found in reports.items() if found}


def choose_device(asked: str) -> str:
    """Return `cpu`, `cuda` or `cuda:N`; `auto` means CUDA if the NVIDIA driver is present, else `cpu`.

    Raises:
        RecipeError: the recipe asks for CUDA and there is no NVIDIA driver.
    """
    present = Path("/proc/driver/nvidia/gpus").exists()
    if asked.startswith("cuda") and not present:
        raise RecipeError(f"device: {asked}: this machine shows no NVIDIA driver; allowed here: auto, cpu")
    return asked if asked != "auto" else "cuda" if present else "cpu"


def model_name(recipe: Recipe) -> str:
    """Return the model's name, made from its source; see `Plan.model_name`."""
    try:
        return default_model_name(recipe.model.source)
    except RecipeError:
        return "model"


def uses_calibration(recipe: Recipe) -> bool:
    """Return whether any method of the recipe sees the calibration windows."""
    return any(METHODS[request.method].calibrated for request in recipe.variants)


def _job(
    spec: VariantSpec,
    snapshot: Snapshot,
    calibration: TokenSet | None,
    evaluation: TokenSet,
    name: str,
    place: Place,
    reference: Place,
) -> VariantJob:
    row, kind = spec.row, reference.device.partition(":")[0]  # keys do not depend on the GPU's number
    device = place.device if place.device.partition(":")[0] in spec.maker.devices else "cpu"
    made_on = device.partition(":")[0]
    runtime = spec.runtime(snapshot.origin.architecture.experts)
    seen = calibration if row.calibrated else None
    work = EngineWork(made_on, place.threads, *_told(spec, made_on, place.processor))
    body_key = artifact_key(spec, snapshot.core_digest, name, seen, work)
    base = EngineWork(kind, reference.threads, "", "")
    baseline_key = artifact_key(BASELINE, snapshot.core_digest, name, None, base)
    trace_key = keys.stage_key(
        "trace", artifact=baseline_key, evaluation=evaluation.digest, device=kind, **measured_by("transformers", ())
    )
    machine = class_of(device, place.threads, processor.arithmetic(place.processor))
    if made_on == "cpu" and place.processor != processor.of_this_machine():
        machine = machine._replace(hardware="")  # a pool's processor: its name is unknown here
    return VariantJob(
        name=spec.name,
        spec=spec,
        snapshot=snapshot,
        calibration=seen,
        evaluation=evaluation,
        needs=tuple(StageRef(stage=stage, key=NEEDS[stage].key_of(snapshot.digest, name)) for stage in row.needs),
        trace_key=trace_key,
        artifact_key=artifact_key(spec, snapshot.digest, name, seen, work, config_forms.revision(spec)),
        body_key=body_key,
        report_key=keys.stage_key(
            "report",
            artifact=body_key,
            trace=trace_key,
            device=made_on,
            **measured_by(runtime, spec.maker.engines_beside),
        ),
        speed_key=keys.stage_key(
            "speed",
            artifact=body_key,
            evaluation=evaluation.digest,
            machine=machine._asdict(),
            **measured_by(runtime, spec.maker.engines_beside) | {"revision": evaluate.SPEED_REVISION},
        ),
        hardware=machine.hardware,
        device=device,
        threads=place.threads,
        arithmetic=work.arithmetic,
        processor=work.processor,
    )


def _told(spec: VariantSpec, device: str, kind: str) -> tuple[str, str]:
    """Return the engine's arithmetic and the processor class that its bytes depend on; both may be empty."""
    if device != "cpu" or not spec.row.processor_dependent:
        return "", ""
    asked, known = processor.arithmetic(kind), spec.row.arithmetics
    return asked if asked in known else known[0], kind
