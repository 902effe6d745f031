"""Stage 5: an artifact is measured in a fresh process that gets its folder and nothing else of the quantize stage."""

import time
from typing import Any

from quantmill import keys
from quantmill.artifact import Artifact, StageResult, VariantJob
from quantmill.errors import BlobMissing
from quantmill.files import FileEntry
from quantmill.report import EvaluationReport
from quantmill.store.store import Store
from tasks.sandbox import Sandbox
from tasks.surroundings import scratch

REVISION = 3
_ALWAYS = ("numpy", "safetensors", "tokenizers")
_TORCH = ("torch", "transformers", "accelerate", *_ALWAYS)
PACKAGES = {
    "transformers": _TORCH,
    "hqq": (*_TORCH, "hqq"),
    "gptqmodel": (*_TORCH, "gptqmodel"),
    "llama_cpp": ("llama-cpp-python", *_ALWAYS),
}


def find_report(job: VariantJob, artifact: Artifact, store: Store) -> EvaluationReport | None:
    """Return the report of just this artifact if it was made before; the baseline's counts only with its trace."""
    if job.spec.method == "baseline" and not store.look_up("trace", job.trace_key):
        return None
    found = store.look_up("report", _key(job, artifact))
    return EvaluationReport.model_validate(found.value) if found else None


def measure_artifact(job: VariantJob, artifact: Artifact, store: Store, sandbox: Sandbox) -> EvaluationReport:
    """Return how the artifact measures; the baseline's job leaves the trace that the others are compared with.

    Raises:
        JobError: the artifact cannot be loaded or measured.
        BlobMissing: the baseline's trace is not in the store.
    """
    if found := find_report(job, artifact, store):
        return found
    row, is_baseline = job.spec.maker, job.spec.method == "baseline"
    with scratch(sandbox.home / "scratch") as place:
        store.fetch(artifact.files, place / "out" / "artifact")
        store.fetch((job.evaluation.file,), place / "work")
        trace = None if is_baseline else store.look_up("trace", job.trace_key)
        if trace:
            store.fetch(trace.blobs, place / "out" / "trace")
        elif not is_baseline:
            raise BlobMissing(f"{job.name}: the baseline's trace {job.trace_key} is not in the store")
        arguments = {
            "artifact": str(place / "out" / "artifact"),
            "runtime": job.runtime,
            "windows": str(place / "work" / job.evaluation.file.path),
            "trace": str(place / "out" / "trace") if trace else None,
            "device": job.device,
            "spec": job.spec.model_dump(),
        }
        packages = (*PACKAGES[job.runtime], *(row.engines if job.runtime == "transformers" else ()))
        with sandbox.run("report", job.name, arguments, tuple(sorted(set(packages))), job.threads) as result:
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
    return EvaluationReport.model_validate(
        _record(store, "report", _key(job, artifact), report.model_dump(mode="json")).value
    )


def _key(job: VariantJob, artifact: Artifact) -> str:
    """Return the report's key. It holds the bytes too: an artifact that was made again may differ (GPUs)."""
    return keys.stage_key("report", job=job.report_key, artifact=artifact.made_digest)


def _record(
    store: Store, stage: str, key: str, value: dict[str, Any], blobs: tuple[FileEntry, ...] = ()
) -> StageResult:
    return store.record(StageResult(stage=stage, key=key, blobs=blobs, value=value, made_at=time.time()))
