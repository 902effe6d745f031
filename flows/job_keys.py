"""Computes the keys of artifacts and reports from everything that their bytes and figures depend on."""

from typing import NamedTuple

from flows.needs import NEEDS
from quantmill.files import keys
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import TokenSet
from tasks import evaluate, installed


class EngineWork(NamedTuple):
    """The machine facts that an artifact's bytes depend on; an empty string means no dependence."""

    device: str
    threads: int
    arithmetic: str
    processor: str


def artifact_key(
    spec: VariantSpec, source: str, name: str, seen: TokenSet | None, work: EngineWork, config: int = 0
) -> str:
    """Return the key of a variant's artifact.

    Args:
        spec: the variant.
        source: the digest of the snapshot, or of its core; for the core `config` is 0.
        name: the model's name.
        seen: the calibration windows; None if the method uses none.
        work: the machine facts that the bytes depend on.
        config: the revision of the published config.json; see `config_forms.revision`.
    """
    row = spec.row
    told: dict[str, object] = {"config": config} if config else {}
    told |= {"arithmetic": work.arithmetic, "processor": work.processor} if work.processor else {}
    return keys.stage_key(
        "artifact",
        source=source,
        spec=spec.canonical(),
        calibration=seen.digest if seen else "",
        **{"conversion": ""} | {stage: NEEDS[stage].key_of(source, name) for stage in row.needs},
        device=work.device,
        threads=work.threads if row.thread_dependent else 0,
        revision=row.revision,
        engines=installed.locked(row.engines, row.environment),
        **told,
    )


def measured_by(runtime: str, packages: tuple[str, ...]) -> dict[str, object]:
    """Return the part of a key for a measurement: its revision, and the packages of runtime and method."""
    return {"revision": evaluate.REVISION, "engines": installed.locked(evaluate.packages(runtime, packages))}
