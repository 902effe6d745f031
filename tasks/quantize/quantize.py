"""Stage 4: makes a variant's artifact in a process of its own, and stores the artifact's files.

If only a model's companion files changed (chat template, generation settings, licence), or a new release writes the config
in another form, no engine runs: the stored artifact of the same weights and tokenizer gets the new files.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from quantmill.errors import BlobMissing, OutOfMemory, SourceError
from quantmill.files import contents
from quantmill.files.entries import FileEntry
from quantmill.recipe.packing import Packing
from quantmill.records.artifact import Artifact, Origin, StageResult, is_companion
from quantmill.records.job import VariantJob
from quantmill.store.store import Store
from tasks import installed, processor
from tasks.model import config_forms
from tasks.quantize import frugal
from tasks.quantize.job import Dress, Make, TakeOver
from tasks.sandbox import PROGRESS, JobResult, Sandbox
from tasks.source import places, snapshots
from tasks.tokenizer import chat

DRESS_PACKAGES = ("gguf", "llama-cpp-python", "tokenizers", "transformers")


def find_artifact(job: VariantJob, store: Store) -> Artifact | None:
    """Return the job's artifact if it was made before and the store has all its files."""
    found = store.look_up("artifact", job.artifact_key)
    return Artifact.model_validate(found.value) if found else None


def find_body(job: VariantJob, store: Store) -> Artifact | None:
    """Return an artifact that differs from the job's only in its companion files, if one was made before."""
    found = store.look_up("body", job.body_key)
    return Artifact.model_validate(found.value) if found else None


def make_artifact(job: VariantJob, store: Store, sandbox: Sandbox) -> Artifact:
    """Return the job's artifact; make the artifact if the store lacks it.

    Raises:
        JobError: the engine failed, or this processor would make other bytes; the class says which.
        TokenizerMismatch: a GGUF file renders the model's new chat template differently from the model.
        VerificationError: the engine left a file in the folder that does not belong to a model.
    """
    if found := find_artifact(job, store):
        return found
    processor.require(job)
    if job.checkpoint:
        return _take_over(job, job.checkpoint, store, sandbox)
    if made := find_body(job, store):
        return _dress(job, made, store, sandbox)
    starved: OutOfMemory | None = None
    for attempt in frugal.attempts(job.spec, job.device):
        if starved:
            PROGRESS.warning("%s: out of memory; once more with %s", job.name, attempt.words)
        try:
            return _attempt(job, attempt, store, sandbox)
        except OutOfMemory as error:
            starved = error
    raise starved or OutOfMemory(job.name)


def _attempt(job: VariantJob, attempt: frugal.Attempt, store: Store, sandbox: Sandbox) -> Artifact:
    row = job.spec.row
    with sandbox.scratch() as place:
        calibration = None
        if job.calibration:
            store.fetch((job.calibration.file,), place / "work")
            calibration = place / "work" / job.calibration.file.path
        told = Make(
            spec=attempt.spec,
            source=snapshots.local_folder(job.snapshot, sandbox),
            needed=_needed(job, store, place / "out"),
            calibration=calibration,
            device=attempt.device,
            arithmetic=job.arithmetic or "bfloat16",
        )
        with sandbox.run(told, job.name, row.engines, job.threads, row.environment) as result:
            made = _record(job, result, store, attempt.words)
            _keep("body", job.body_key, made, store)
            return made


def _take_over(job: VariantJob, checkpoint: Origin, store: Store, sandbox: Sandbox) -> Artifact:
    """Return the artifact of a finished checkpoint; it holds the files that the run's plan found."""
    told = TakeOver(
        checkpoint=places.open_source(checkpoint.request, sandbox.home).fetch(checkpoint),
        files=tuple(file.path for file in checkpoint.files),
        packing=cast("Packing", job.spec.packing),  # the plan filled it in when it found the checkpoint
        companions=snapshots.local_folder(job.snapshot, sandbox),
        device=job.device,
    )
    with sandbox.run(told, job.name, (), job.threads) as result:
        return _record(job, result, store)


def _record(job: VariantJob, result: JobResult, store: Store, given_up: str = "") -> Artifact:
    """Check and store the files that a job left; store and return the artifact's record."""
    contents.check_folder(result.out)
    files = store.add_folder(result.out)
    if changed := sorted(file.path for file in set(job.checkpoint.files if job.checkpoint else ()) - set(files)):
        raise SourceError(f"{job.name}: {changed[0]} is not what it was when the run began")
    artifact = Artifact(
        spec=job.spec,
        format=job.spec.format,
        files=files,
        chat_template_sha256=chat.sha256_in(result.out),
        source_digest=job.snapshot.digest,
        calibration_digest=job.calibration.digest if job.calibration else "",
        toolchain=installed.locked(job.spec.row.engines, job.spec.row.environment),
        given_up=given_up,
        quantize_s=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        **result.value,
    )
    return _keep("artifact", job.artifact_key, artifact, store)


def _dress(job: VariantJob, made: Artifact, store: Store, sandbox: Sandbox) -> Artifact:
    """Return an artifact with the weights of `made` and the snapshot's companion files.

    Its config.json can be read by transformers 4 and 5.
    """
    files, template = {file.path: file for file in made.files}, made.chat_template_sha256
    with sandbox.scratch() as place:
        if _companions(made.files) != _companions(job.snapshot.files):
            files, template = _with_companions(job, made, place, store, sandbox)
        config = place / "config"
        store.fetch((files["config.json"],), config)
        if config_forms.complete(config / "config.json"):
            PROGRESS.info("%s: gets a config.json that transformers 4 reads too; no engine works", job.name)
            files |= {file.path: file for file in store.add_folder(config)}
    dressed = made.model_copy(
        update={
            "files": tuple(sorted(files.values(), key=lambda file: file.path)),
            "chat_template_sha256": template,
            "source_digest": job.snapshot.digest,
            "dressed_from": made.made_digest,
        }
    )
    return _keep("artifact", job.artifact_key, dressed, store)


def _with_companions(
    job: VariantJob, made: Artifact, place: Path, store: Store, sandbox: Sandbox
) -> tuple[dict[str, FileEntry], str]:
    """Return the artifact's files with the snapshot's companions, and the digest of the chat template.

    GGUF files among them are written anew with the companions' settings.
    """
    others = [file for file in made.files if not is_companion(file.path)]
    ggufs = tuple(file for file in others if file.path.endswith(".gguf"))
    store.fetch(ggufs, place / "work")
    told = Dress(artifact=place / "work", source=snapshots.local_folder(job.snapshot, sandbox))
    with sandbox.run(told, job.name, DRESS_PACKAGES if ggufs else ()) as result:
        contents.check_folder(result.out)
        kept = [file for file in others if file not in ggufs]
        files = {file.path: file for file in (*kept, *store.add_folder(result.out))}
        return files, chat.sha256_in(result.out)


def _companions(files: Iterable[FileEntry]) -> set[FileEntry]:
    return {file for file in files if is_companion(file.path)}


def _keep(stage: str, key: str, artifact: Artifact, store: Store) -> Artifact:
    value = artifact.model_dump(mode="json")
    made = StageResult(stage=stage, key=key, blobs=artifact.files, value=value, made_at=time.time())
    return Artifact.model_validate(store.record(made).value)


def _needed(job: VariantJob, store: Store, place: Path) -> dict[str, Path]:
    """Fetch the results that the job needs and return stage -> folder with the stage's result."""
    folders = {}
    for ref in job.needs:
        found = store.look_up(ref.stage, ref.key)
        if found is None:
            raise BlobMissing(f"{job.name}: the {ref.stage} {ref.key} is not in the store")
        folders[ref.stage] = place / ref.stage
        store.fetch(found.blobs, folders[ref.stage])
    return folders
