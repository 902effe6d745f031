"""Recipe + snapshot + token sets -> the jobs of a run, with the keys that their results are found under."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flows.pools import Pool, candidates
from quantmill.errors import RecipeError
from quantmill.files import keys
from quantmill.machine import class_of
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import Recipe, VariantSpec, default_model_name
from quantmill.records import planning
from quantmill.records.artifact import Origin, Snapshot, TokenSet, VariantJob
from quantmill.records.report import Outcome
from tasks import arithmetic, convert, evaluate, installed, processor
from tasks.model import config_forms

BASELINE = VariantSpec(method="baseline", bits=16, type="bf16")
LOSSLESS = {"llama_cpp": VariantSpec(method="gguf", bits=32, type="F32")}
"""Runtime -> the variant that changes no weight there: its KL is the runtime's noise floor. transformers has the baseline."""


class Place(NamedTuple):
    """Where a variant's jobs run, as far as its keys depend on it."""

    device: str
    threads: int
    processor: str


class _Work(NamedTuple):
    """What the bytes of an artifact depend on beside its inputs; empty texts: they do not depend on it."""

    device: str
    threads: int
    arithmetic: str
    processor: str


class Plan(NamedTuple):
    """The jobs of a run. The baseline comes first; floors measure what a runtime alone costs."""

    baseline: VariantJob
    floors: dict[str, VariantJob]
    variants: list[VariantJob]
    conversion_key: str
    conversion_name: str

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

    `checkpoints`: source -> what lies there, of variants that are taken as they are.

    Raises:
        RequestError: no pool takes a variant.
    """
    asked = recipe.expand(snapshot.origin.architecture.linear_inputs)
    specs = [_as_found(spec, checkpoints) for spec in asked]
    taken = {
        spec.name: checkpoints[before.source or ""] for spec, before in zip(specs, asked, strict=True) if spec.packing
    }
    name, here = conversion_name(recipe), processor.of_this_machine()
    needed = {spec.runtime(snapshot.origin.architecture.experts) for spec in specs}
    floors = {runtime: spec for runtime, spec in LOSSLESS.items() if runtime in needed}
    converted = any(spec.row.converted for spec in (*specs, *floors.values()))

    def place(spec: VariantSpec) -> Place:
        if not pools:
            return Place(choose_device(recipe.device), threads, here)
        first = places(spec, snapshot, recipe.device, pools, evaluation.request.sequence_length)[0]
        return Place(first.device, first.threads or threads, first.processor or here)

    def job(spec: VariantSpec) -> VariantJob:
        made = _job(spec, snapshot, calibration, evaluation, name, place(spec), place(BASELINE))
        return made.model_copy(update={"checkpoint": taken.get(spec.name)})

    return Plan(
        baseline=job(BASELINE),
        floors={runtime: job(spec) for runtime, spec in floors.items()},
        variants=[job(spec) for spec in specs],
        conversion_key=_conversion_key(snapshot.digest, name) if converted else "",
        conversion_name=name,
    )


def _as_found(spec: VariantSpec, checkpoints: Mapping[str, Origin]) -> VariantSpec:
    """Return a variant that is taken as it is by what lies at its source; any other as it was asked for."""
    origin = checkpoints.get(spec.source or "") if spec.source is not None else None
    packing = origin.architecture.packing if origin else None
    return spec.found(packing, origin.digest) if origin and packing else spec


def places(spec: VariantSpec, snapshot: Snapshot, device: str, pools: tuple[Pool, ...], length: int) -> list[Pool]:
    """Return the pools that can run a variant, the first choice first, all giving the same keys.

    `length`: tokens of an evaluation window.

    Raises:
        RequestError: there is none.
    """
    needed = planning.memory_bytes(spec, snapshot.parameters, snapshot.origin.architecture, length)
    fitting = candidates(spec, needed, device, pools)
    same = (fitting[0].device, fitting[0].threads, fitting[0].processor)
    return [pool for pool in fitting if (pool.device, pool.threads, pool.processor) == same]


def noise_floor(plan: Plan, baseline: Outcome, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Return runtime -> mean KL that the baseline's own weights show there, at least what its arithmetic alone costs."""
    reports = {runtime: outcomes[job.name].report for runtime, job in plan.floors.items() if job.name in outcomes}
    for runtime in {"transformers", *(job.runtime for job in plan.variants)} - plan.floors.keys():
        reports[runtime] = baseline.report  # other libraries' layers in a transformers model
    least = arithmetic.floor(baseline.report.quality.compute_dtype) if baseline.report else 0.0
    return {runtime: max(abs(found.quality.mean_kl), least) for runtime, found in reports.items() if found}


def choose_device(asked: str) -> str:
    """Return `cpu`, `cuda` or `cuda:N`; `auto` is CUDA where the driver says that there is a GPU.

    Raises:
        RecipeError: CUDA is asked for where there is no driver.
    """
    present = Path("/proc/driver/nvidia/gpus").exists()
    if asked.startswith("cuda") and not present:
        raise RecipeError(f"device: {asked}: this machine shows no NVIDIA driver; allowed here: auto, cpu")
    return asked if asked != "auto" else "cuda" if present else "cpu"


def conversion_name(recipe: Recipe) -> str:
    """Return the model's name in the metadata of GGUF files; it does not depend on what it is published as."""
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
    conversion_name: str,
    place: Place,
    reference: Place,
) -> VariantJob:
    row, kind = spec.row, reference.device.partition(":")[0]  # which GPU of a machine is no part of a key
    device = place.device if place.device.partition(":")[0] in spec.maker.devices else "cpu"
    made_on = device.partition(":")[0]
    runtime = spec.runtime(snapshot.origin.architecture.experts)
    seen = calibration if row.calibrated else None
    work = _Work(made_on, place.threads, *_told(spec, made_on, place.processor))
    body_key = _artifact_key(spec, snapshot.core_digest, conversion_name, seen, work)
    baseline_key = _artifact_key(
        BASELINE, snapshot.core_digest, conversion_name, None, _Work(kind, reference.threads, "", "")
    )
    trace_key = keys.stage_key(
        "trace", artifact=baseline_key, evaluation=evaluation.digest, device=kind, **_measured_by("transformers", ())
    )
    machine = class_of(device, place.threads, processor.arithmetic(place.processor))
    if made_on == "cpu" and place.processor != processor.of_this_machine():
        machine = machine._replace(hardware="")  # a pool's: its name is not known here
    return VariantJob(
        name=spec.name,
        spec=spec,
        snapshot=snapshot,
        calibration=seen,
        evaluation=evaluation,
        conversion_key=_conversion_key(snapshot.digest, conversion_name) if row.converted else "",
        trace_key=trace_key,
        artifact_key=_artifact_key(spec, snapshot.digest, conversion_name, seen, work, config_forms.revision(spec)),
        body_key=body_key,
        report_key=keys.stage_key(
            "report",
            artifact=body_key,
            trace=trace_key,
            device=made_on,
            **_measured_by(runtime, spec.maker.engines),
        ),
        speed_key=keys.stage_key(
            "speed",
            artifact=body_key,
            evaluation=evaluation.digest,
            machine=machine._asdict(),
            **_measured_by(runtime, spec.maker.engines) | {"revision": evaluate.SPEED_REVISION},
        ),
        hardware=machine.hardware,
        device=device,
        threads=place.threads,
        arithmetic=work.arithmetic,
        processor=work.processor,
    )


def _told(spec: VariantSpec, device: str, kind: str) -> tuple[str, str]:
    """Return the arithmetic that the engine is told, and the processor class that its bytes depend on; both may be empty."""
    if device != "cpu" or not spec.row.processor_dependent:
        return "", ""
    asked, known = processor.arithmetic(kind), spec.row.arithmetics
    return asked if asked in known else known[0], kind


def _conversion_key(source: str, name: str) -> str:
    return keys.stage_key(
        "conversion", source=source, name=name, revision=convert.REVISION, engines=installed.locked(convert.PACKAGES)
    )


def _artifact_key(
    spec: VariantSpec, source: str, conversion_name: str, seen: TokenSet | None, work: _Work, config: int = 0
) -> str:
    """Return the key of what is made of a snapshot; `source` is its digest, or that of its core and then `config` is 0."""
    row = spec.row
    told: dict[str, object] = {"config": config} if config else {}
    told |= {"arithmetic": work.arithmetic, "processor": work.processor} if work.processor else {}
    return keys.stage_key(
        "artifact",
        source=source,
        spec=spec.canonical(),
        calibration=seen.digest if seen else "",
        conversion=_conversion_key(source, conversion_name) if row.converted else "",
        device=work.device,
        threads=work.threads if row.thread_dependent else 0,
        revision=row.revision,
        engines=installed.locked(row.engines),
        **told,
    )


def _measured_by(runtime: str, packages: tuple[str, ...]) -> dict[str, object]:
    return {"revision": evaluate.REVISION, "engines": installed.locked(tuple({*evaluate.PACKAGES[runtime], *packages}))}
