"""The keys that artifacts and reports are found under: of all that their bytes and figures depend on."""

from typing import NamedTuple

from flows.needs import NEEDS
from quantmill.files import keys
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import TokenSet
from tasks import evaluate, installed


class EngineWork(NamedTuple):
    """What the bytes of an artifact depend on beside its inputs; empty texts: they do not depend on it."""

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
        source: the snapshot's digest, or that of its core; then `config` is 0.
        name: the model's name.
        seen: the calibration windows; None: the method uses none.
        work: how the engine works.
        config: the revision of what is written into config.json.
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
    """Return the part of a key that names what measures: the runtime's packages and those of the method."""
    return {"revision": evaluate.REVISION, "engines": installed.locked(evaluate.packages(runtime, packages))}
