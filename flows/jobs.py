"""Recipe + snapshot + token sets -> the jobs of a run, with the keys that their results are found under."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from quantmill import keys
from quantmill.artifact import Origin, Snapshot, TokenSet, VariantJob
from quantmill.errors import RecipeError
from quantmill.methods import METHODS
from quantmill.recipe import Recipe, VariantSpec, default_model_name
from tasks import convert, engines, evaluate

BASELINE = VariantSpec(method="baseline", bits=16, type="bf16")
LOSSLESS = {"llama_cpp": VariantSpec(method="gguf", bits=32, type="F32")}
"""Runtime -> the variant that changes no weight there: its KL is the runtime's noise floor. transformers has the baseline."""


class Plan(NamedTuple):
    """The jobs of a run. The baseline comes first; floors measure what a runtime alone costs."""

    baseline: VariantJob
    floors: dict[str, VariantJob]
    variants: list[VariantJob]
    conversion_key: str
    conversion_name: str


def make_plan(
    recipe: Recipe,
    snapshot: Snapshot,
    calibration: TokenSet | None,
    evaluation: TokenSet,
    threads: int,
    checkpoints: Mapping[str, Origin],
) -> Plan:
    """Return the jobs in the recipe's order; `checkpoints`: source -> what lies there, of variants taken as they are."""
    asked, device = recipe.expand(snapshot.origin.architecture.linear_inputs), choose_device(recipe.device)
    specs = [_as_found(spec, checkpoints) for spec in asked]
    taken = {
        spec.name: checkpoints[before.source or ""] for spec, before in zip(specs, asked, strict=True) if spec.packing
    }
    name = conversion_name(recipe)
    needed = {spec.runtime(snapshot.origin.architecture.experts) for spec in specs}
    floors = {runtime: spec for runtime, spec in LOSSLESS.items() if runtime in needed}
    conversion_key = keys.stage_key(
        "conversion",
        source=snapshot.digest,
        name=name,
        revision=convert.REVISION,
        engines=engines.locked(convert.PACKAGES),
    )

    def job(spec: VariantSpec) -> VariantJob:
        made = _job(spec, snapshot, calibration, evaluation, conversion_key, device, threads)
        return made.model_copy(update={"checkpoint": taken.get(spec.name)})

    return Plan(
        baseline=job(BASELINE),
        floors={runtime: job(spec) for runtime, spec in floors.items()},
        variants=[job(spec) for spec in specs],
        conversion_key=conversion_key if any(spec.row.converted for spec in (*specs, *floors.values())) else "",
        conversion_name=name,
    )


def _as_found(spec: VariantSpec, checkpoints: Mapping[str, Origin]) -> VariantSpec:
    """Return a variant that is taken as it is by what lies at its source; any other as it was asked for."""
    origin = checkpoints.get(spec.source or "") if spec.source is not None else None
    packing = origin.architecture.packing if origin else None
    return spec.found(packing, origin.digest) if origin and packing else spec


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
    conversion_key: str,
    device: str,
    threads: int,
) -> VariantJob:
    row, kind = spec.row, device.partition(":")[0]  # which GPU of a machine is no part of a key
    place = device if kind in spec.maker.devices else "cpu"
    made_on = place.partition(":")[0]
    runtime = spec.runtime(snapshot.origin.architecture.experts)
    seen = calibration if row.calibrated else None
    conversion = conversion_key if row.converted else ""
    artifact_key = _artifact_key(spec, snapshot, seen, conversion, made_on, threads)
    baseline_key = _artifact_key(BASELINE, snapshot, None, "", kind, threads)
    trace_key = keys.stage_key(
        "trace", artifact=baseline_key, evaluation=evaluation.digest, device=kind, **_measured_by("transformers", ())
    )
    return VariantJob(
        name=spec.name,
        spec=spec,
        snapshot=snapshot,
        calibration=seen,
        evaluation=evaluation,
        conversion_key=conversion,
        trace_key=trace_key,
        artifact_key=artifact_key,
        report_key=keys.stage_key(
            "report",
            artifact=artifact_key,
            trace=trace_key,
            device=made_on,
            **_measured_by(runtime, spec.maker.engines),
        ),
        device=place,
        threads=threads,
    )


def _artifact_key(
    spec: VariantSpec, snapshot: Snapshot, seen: TokenSet | None, conversion: str, device: str, threads: int
) -> str:
    row = spec.row
    return keys.stage_key(
        "artifact",
        source=snapshot.digest,
        spec=spec.canonical(),
        calibration=seen.digest if seen else "",
        conversion=conversion,
        device=device,
        threads=threads if row.thread_dependent else 0,
        revision=row.revision,
        engines=engines.locked(row.engines),
    )


def _measured_by(runtime: str, packages: tuple[str, ...]) -> dict[str, object]:
    return {"revision": evaluate.REVISION, "engines": engines.locked(tuple({*evaluate.PACKAGES[runtime], *packages}))}
