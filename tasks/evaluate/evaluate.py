"""Stage 5: measures an artifact in a fresh process.

From the quantize stage, the process gets only the artifact's folder.
"""

import time
from pathlib import Path
from typing import Any

from quantmill.errors import BlobMissing
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import Artifact, StageResult
from quantmill.records.job import VariantJob
from quantmill.records.report import EvaluationReport
from quantmill.store.store import Store
from tasks.evaluate.job import Report, Speed
from tasks.sandbox import Sandbox

REVISION = 3
SPEED_REVISION = 1
_OF_SPEED = ("speed", "timing", "sample", "sample_distinct_tokens", "generations")
_ALWAYS = ("numpy", "safetensors", "tokenizers")
_TORCH = ("torch", "transformers", "accelerate", *_ALWAYS)
_LLAMA_CPP = ("llama-cpp-python", *_ALWAYS)


def find_report(job: VariantJob, artifact: Artifact, store: Store) -> EvaluationReport | None:
    """Return the report of exactly this artifact if its scores and its speed were measured before.

    A baseline's report counts only if the store has its trace. The speed must come from the job's class of machine: from a
    speed record, or from the report itself if the scores were made on such a machine.
    """
    report = _find_scores(job, artifact, store)
    if report is None:
        return None
    if speed := store.look_up("speed", _speed_key(job, artifact)):
        return EvaluationReport.model_validate(report.model_dump(mode="json") | speed.value)
    known = (job.hardware or report.speed.hardware, job.threads)
    return report if (report.speed.hardware, report.speed.threads) == known else None


def _find_scores(job: VariantJob, artifact: Artifact, store: Store) -> EvaluationReport | None:
    """Return the report that was stored with the scores; its speed may come from another class of machine."""
    if job.spec.method == "baseline" and not store.look_up("trace", job.trace_key):
        return None
    found = store.look_up("report", _key(job, artifact))
    return EvaluationReport.model_validate(found.value) if found else None


def measure_artifact(job: VariantJob, artifact: Artifact, store: Store, sandbox: Sandbox) -> EvaluationReport:
    """Measure an artifact and return the report; the baseline's job also stores the baseline's trace.

    One process measures scores and speed. If the scores are stored already, the process measures only the speed: on another
    class of machine, or because the job asks for a new speed.

    Raises:
        JobError: the artifact cannot be loaded or measured.
        BlobMissing: the baseline's trace is not in the store.
    """
    found = find_report(job, artifact, store)
    if found and not job.measure_again:
        return found
    if scores := _find_scores(job, artifact, store):
        return _measure_speed(job, artifact, store, sandbox, scores, found)
    is_baseline = job.spec.method == "baseline"
    with sandbox.scratch() as place:
        store.fetch(artifact.files, place / "out" / "artifact")
        store.fetch((job.evaluation.file,), place / "work")
        trace = None if is_baseline else store.look_up("trace", job.trace_key)
        if trace:
            store.fetch(trace.blobs, place / "out" / "trace")
        elif not is_baseline:
            raise BlobMissing(f"{job.name}: the baseline's trace {job.trace_key} is not in the store")
        told = Report(trace=place / "out" / "trace" if trace else None, **_measured(job, place, sandbox))
        with sandbox.run(told, job.name, _packages(job), job.threads) as result:
            report = EvaluationReport(
                name=job.name,
                artifact_digest=artifact.digest,
                evaluation_digest=job.evaluation.digest,
                runtime=job.runtime,
                evaluate_s=result.seconds,
                **result.value,
            )
            if is_baseline:
                _record(
                    store, "trace", job.trace_key, {"head_digest": report.head_digest}, store.add_folder(result.out)
                )
    made = report.model_dump(mode="json")
    held = EvaluationReport.model_validate(_record(store, "report", _key(job, artifact), made).value)
    speed = _record(store, "speed", _speed_key(job, artifact), {name: made[name] for name in _OF_SPEED if name in made})
    return EvaluationReport.model_validate(held.model_dump(mode="json") | speed.value)


def _measure_speed(
    job: VariantJob,
    artifact: Artifact,
    store: Store,
    sandbox: Sandbox,
    scores: EvaluationReport,
    before: EvaluationReport | None,
) -> EvaluationReport:
    """Measure the speed and return the scores with that speed.

    A speed of a busy machine does not replace a speed of a quiet machine.
    """
    with sandbox.scratch() as place:
        store.fetch(artifact.files, place / "out" / "artifact")
        store.fetch((job.evaluation.file,), place / "work")
        told = Speed(**_measured(job, place, sandbox))
        with sandbox.run(told, job.name, _packages(job), job.threads) as result:
            made = EvaluationReport.model_validate(scores.model_dump(mode="json") | result.value)
    if before and made.busy and not before.busy:
        return before
    value = made.model_dump(mode="json")
    _record(
        store, "speed", _speed_key(job, artifact), {name: value[name] for name in _OF_SPEED if name in value}, anew=True
    )
    return made


def _measured(job: VariantJob, place: Path, sandbox: Sandbox) -> dict[str, Any]:
    return {
        "artifact": place / "out" / "artifact",
        "runtime": job.runtime,
        "windows": place / "work" / job.evaluation.file.path,
        "device": job.device,
        "spec": job.spec,
        **sandbox.timing,
    }


def packages(runtime: str, engines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the packages that measure an artifact.

    These are the packages of the runtime, and the engines of the method that packed the artifact.
    """
    return tuple(sorted({*(_LLAMA_CPP if runtime == "llama_cpp" else _TORCH), *engines}))


def _packages(job: VariantJob) -> tuple[str, ...]:
    return packages(job.runtime, job.spec.maker.engines_beside)


def _key(job: VariantJob, artifact: Artifact) -> str:
    """Return the report's key.

    The key contains the artifact's digest, because an artifact that is made again on a GPU may differ.
    """
    return keys.stage_key("report", job=job.report_key, artifact=artifact.made_digest)


def _speed_key(job: VariantJob, artifact: Artifact) -> str:
    return keys.stage_key("speed", job=job.speed_key, artifact=artifact.made_digest)


def _record(
    store: Store, stage: str, key: str, value: dict[str, Any], blobs: tuple[FileEntry, ...] = (), anew: bool = False
) -> StageResult:
    return store.record(StageResult(stage=stage, key=key, blobs=blobs, value=value, made_at=time.time()), anew)
